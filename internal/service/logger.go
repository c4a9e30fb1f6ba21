package service

// The logger of a process.

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"golang.org/x/term"

	"github.com/perdure/perdure/internal/config"
)

// Logger writes text to a terminal and JSON to anything else, unless
// PERDURE_LOG_FORMAT says which; PERDURE_LOG_LEVEL says how much.
func Logger(cfg config.Config, w io.Writer) *slog.Logger {
	tty := IsTerminal(w)
	level := slog.LevelInfo
	// config has checked the word; an unknown one here stays at info.
	_ = level.UnmarshalText([]byte(cfg.LogLevel))
	format := cfg.LogFormat
	if format == "" && tty {
		format = "text"
	}
	if format != "text" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(tint.NewTextHandler(&lineWriter{w}, &tint.Options{
		Level:      level,
		TimeFormat: time.TimeOnly,
		NoColor:    !tty || os.Getenv("NO_COLOR") != "",
	}))
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// lineWriter keeps one record on one line: tint quotes values but passes a
// message's line breaks on.
type lineWriter struct{ w io.Writer }

func (l *lineWriter) Write(p []byte) (int, error) {
	s := strings.TrimSuffix(string(p), "\n")
	if strings.ContainsAny(s, "\r\n") {
		s = strings.NewReplacer("\r", `\r`, "\n", `\n`).Replace(s)
	}
	if _, err := io.WriteString(l.w, s+"\n"); err != nil {
		return 0, err
	}
	return len(p), nil
}
