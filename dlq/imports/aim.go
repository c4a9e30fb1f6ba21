package imports

// Where a letter goes, and why it may not.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// dest is a topic that letters want to go to.
type dest struct {
	name       string
	id         string // "" = an old broker
	partitions int32
	limit      int // max.message.bytes
	compacted  bool
	told       bool // its settings could be read
	why        Why  // nothing may be sent there; "" = it may
	detail     string
}

// aim makes the record that is sent for a letter: what failed, without what its
// death added, and with the letter's place. It is not sent if there is a why.
func (r *run) aim(ctx context.Context, l *letter) (why Why, detail string, err error) {
	to := r.o.To
	switch {
	case l.Format == foreign.Perdure:
		return Perdures, "it is a letter of a Perdure: `perdure replay` there sends it back, and knows whether its task was completed", nil
	case to == "" && l.Origin.Topic == "":
		return NoOrigin, "it does not say which topic it came from: say --to TOPIC", nil
	case to == "" && l.Format == foreign.Unknown:
		return UnknownForm, fmt.Sprintf("nobody that we know wrote it; that it came from %s is a guess: say --to TOPIC", l.Origin.Topic), nil
	case to == "":
		to = l.Origin.Topic
	}
	if l.dest, err = r.destination(ctx, to); err != nil || l.dest.why != "" {
		if l.dest != nil {
			why, detail = l.dest.why, l.dest.detail
		}
		return why, detail, err
	}
	from := l.rec
	headers := l.Headers
	if !l.Copied {
		if why, detail = r.reserved(l.Origin.Topic); why != "" {
			return why, "the letter holds no record, and that of its origin is not read: " + detail, nil
		}
		from, err = r.deps.Cluster.Original(ctx, &l.Letter)
		switch {
		case errors.Is(err, foreign.ErrDenied):
			return NoPermission, "the letter holds no record: " + err.Error(), nil
		case errors.Is(err, foreign.ErrGone), errors.Is(err, foreign.ErrNoTopic), errors.Is(err, foreign.ErrUnknown):
			return Gone, "the letter holds no record: " + err.Error(), nil
		case err != nil:
			return "", "", err
		}
		headers = from.Headers
	}
	kept := make([]kgo.RecordHeader, 0, len(headers)+1)
	for _, h := range headers {
		switch {
		case h.Key == schemas.HeaderImported: // of the time before
		case strings.HasPrefix(h.Key, "perdure_"):
			return Perdures, "it has the header " + h.Key + ": it is a record of a Perdure, which alone may send it", nil
		default:
			kept = append(kept, h)
		}
	}
	kept = append(kept, kgo.RecordHeader{Key: schemas.HeaderImported, Value: r.header(l.place)})
	// Its time is that of sending: with its old one, retention could take it at once.
	l.rec = &kgo.Record{Topic: to, Partition: l.partitionOf(), Key: from.Key, Value: from.Value, Headers: kept}
	if n := sizeOf(l.rec); n > l.dest.limit {
		return TooLarge, fmt.Sprintf("the record has %d bytes uncompressed, topic %s takes %d", n, to, l.dest.limit), nil
	}
	if l.dest.compacted && l.rec.Key == nil {
		return NoKey, "topic " + to + " is compacted, and takes no record without a key", nil
	}
	return "", "", nil
}

// partitionOf is where it came from, so that it lies among the records of its key
// however its producer chose; by its key in another topic.
func (l *letter) partitionOf() int32 {
	from := &l.Origin
	switch {
	case from.Topic == l.dest.name && from.Partition >= 0 && from.Partition < l.dest.partitions:
		return from.Partition
	case l.rec.Key == nil:
		return int32(l.offset % int64(l.dest.partitions))
	}
	return kafka.PartitionOf(l.rec.Key, int(l.dest.partitions))
}

// own says whether a topic has a name of Perdure's own.
func (r *run) own(topic string) bool {
	n := r.cfg.Names
	return topic == n.Control() || slices.ContainsFunc([]string{n.Tasks(""), n.Retry(""), n.Events(""), n.DLQ("")},
		func(prefix string) bool { return strings.HasPrefix(topic, prefix) })
}

// reserved is why a topic is not for other systems' records, whoever may use it.
func (r *run) reserved(name string) (why Why, detail string) {
	switch {
	case name == r.o.Topic:
		return SameTopic, "it is the topic of dead letters itself"
	case r.own(name):
		return Perdures, fmt.Sprintf("the name of topic %s is one of Perdure's own (PERDURE_KAFKA_TOPIC_PREFIX=%q)", name, r.cfg.Names.Prefix)
	case strings.HasPrefix(name, "__"):
		return Internal, "topic " + name + " is Kafka's own"
	}
	return "", ""
}

// destination looks at a topic once.
func (r *run) destination(ctx context.Context, name string) (*dest, error) {
	if d := r.dests[name]; d != nil {
		return d, nil
	}
	d := &dest{name: name}
	if len(r.dests) >= r.cfg.topics {
		d.why, d.detail = TooMany, fmt.Sprintf("the letters go to more than %d topics: choose with --group or --origin", r.cfg.topics)
		return d, nil
	}
	if d.why, d.detail = r.reserved(name); d.why == "" {
		if err := r.ask(ctx, d); err != nil {
			return nil, err
		}
	}
	r.dests[name] = d
	if d.why == "" {
		r.out.limit(name, d.limit)
	}
	return d, nil
}

// ask asks Kafka about a topic.
func (r *run) ask(ctx context.Context, d *dest) error {
	all, err := r.out.adm.ListTopicsWithInternal(kadm.WithAuthorizedOps(ctx), d.name)
	var denied *kadm.AuthError
	hidden := errors.As(err, &denied)
	if err != nil && !hidden {
		return fmt.Errorf("topic %s: %w", d.name, err)
	}
	info := all[d.name]
	may := info.AuthorizedOperations
	switch {
	case hidden, errors.Is(info.Err, kerr.TopicAuthorizationFailed):
		d.why, d.detail = NoPermission, "this user may not see topic "+d.name
	case info.Err != nil && kerr.IsRetriable(info.Err) && !errors.Is(info.Err, kerr.UnknownTopicOrPartition):
		return fmt.Errorf("topic %s: %w", d.name, info.Err)
	case info.Err != nil, len(info.Partitions) == 0:
		d.why, d.detail = NoTopic, "there is no topic "+strconv.Quote(d.name)
	case info.IsInternal:
		d.why, d.detail = Internal, "topic "+d.name+" is Kafka's own"
	case len(may) > 0 && !slices.Contains(may, kmsg.ACLOperationWrite) && !slices.Contains(may, kmsg.ACLOperationAll): // none: an old broker does not tell
		d.why, d.detail = NoPermission, "this user may not write to topic "+d.name
	}
	if d.why != "" {
		return nil
	}
	d.partitions, d.limit = int32(len(info.Partitions)), defaultLimit
	if info.ID != (kadm.TopicID{}) {
		d.id = info.ID.String()
	}
	configs, err := r.out.adm.DescribeTopicConfigs(ctx, d.name)
	if err != nil && !errors.As(err, &denied) {
		return fmt.Errorf("settings of topic %s: %w", d.name, err)
	}
	for _, c := range configs {
		for _, kv := range c.Configs {
			if c.Err != nil || kv.Value == nil {
				continue
			}
			switch kv.Key {
			case "max.message.bytes":
				if n, err := strconv.Atoi(*kv.Value); err == nil {
					d.limit = n
				}
			case "cleanup.policy":
				d.told, d.compacted = true, strings.Contains(*kv.Value, "compact")
			}
		}
	}
	return nil
}

// defaultLimit is Kafka's own max.message.bytes, for topics whose settings this
// user may not read.
const defaultLimit = 1048588

// sizeOf is at least what a batch with only this record takes, uncompressed.
func sizeOf(r *kgo.Record) int {
	n := 61 + 40 + len(r.Key) + len(r.Value) // a batch's head; lengths and deltas of the record
	for _, h := range r.Headers {
		n += 10 + len(h.Key) + len(h.Value)
	}
	return n
}
