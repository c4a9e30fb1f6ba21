package app

// What `perdure up` says when it is up.

import (
	"fmt"
	"io"
	"strings"

	"github.com/perdure/perdure/internal/config"
)

// banner says what runs where, which of it is embedded, and how to look at it.
func (p *process) banner(w io.Writer, s Servers) {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		fmt.Fprintf(&b, "  %-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	place := func(name string, at Place) {
		switch {
		case !at.Embedded:
			line(name, "%s  (yours)", at.Addr)
		case at.Data == "":
			line(name, "%s  (embedded: %s; keeps nothing over a restart)", at.Addr, at.Detail)
		default:
			line(name, "%s  (embedded: %s)", at.Addr, at.Detail)
		}
	}
	b.WriteString("\nPerdure is up.\n")
	line("API", "%s", p.url())
	place("Postgres", s.Postgres)
	place("Redis", s.Redis)
	place("Kafka", s.Kafka)
	line("catalog", "%s  (%d kinds)", p.cfg.Catalog, len(p.catalog.Kinds))
	line("data", "%s", p.cfg.DataDir)
	if s.Postgres.Embedded || s.Redis.Embedded || s.Kafka.Embedded {
		b.WriteString("Embedded servers are for a laptop; name real ones with PERDURE_POSTGRES_URL,\nPERDURE_REDIS_ADDRS and PERDURE_KAFKA_BROKERS.\n")
	}
	b.WriteString("\nLook at it:\n")
	if s.Postgres.Embedded {
		fmt.Fprintf(&b, "  psql '%s'\n", p.cfg.PostgresURL)
	} else {
		b.WriteString("  psql \"$PERDURE_POSTGRES_URL\"\n")
	}
	topic := "perdure.control"
	if queues := p.catalog.QueueNames(); len(queues) > 0 {
		topic = p.names.Tasks(queues[0])
	}
	fmt.Fprintf(&b, "  kcat -b %s -t %s -C -e -f '%%T %%k %%h\\n%%s\\n'\n", p.cfg.KafkaBrokers[0], topic)
	fmt.Fprintf(&b, "Other commands find it by %s. Ctrl-C stops it.\n\n", config.EnvFile(p.cfg.DataDir))
	// Nobody reads the banner of a process whose stdout is closed.
	_, _ = io.WriteString(w, b.String())
}
