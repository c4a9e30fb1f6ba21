package imports

// One run: read the topic in its order, choose, claim, send, mark.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/perdure/perdure/dlq/foreign"
	"github.com/perdure/perdure/internal/kafka"
	"github.com/perdure/perdure/schemas"
)

// Order is what to import.
type Order struct {
	Topic   string    // the dead-letter topic
	Group   string    // only letters of this fingerprint; "" = all
	Origins []string  // only letters that came from these topics; nil = all
	Since   time.Time // only letters at or after; zero = all
	To      string    // send all of them here; "" = where they came from
	Limit   int64     // send at most so many; 0 = all
	Rate    float64   // letters a second; 0 = as fast as it can
	DryRun  bool      // look at every letter and say what would happen; change nothing
	Again   bool      // send also letters that may have been sent (unknown)
	Who     string    // for the audit
	Why     string    // likewise
	Begun   func(foreign.Extent)
	Notice  func(string)
	Passed  *foreign.Progress // counts while the topic is read
}

// Config tunes an Importer; the zero Config is ready.
type Config struct {
	Names kafka.Names // Perdure's own topics, which no letter is sent to
	// Deliver is how long one parcel of letters may be under way; 0 = 15 s. Settle is
	// how old the claim of a process that ended must be before its letters are looked
	// for, longer than Deliver by what a broker may keep a request; 0 = 20 s.
	Deliver, Settle time.Duration
	Parcel          int // letters that are claimed and sent together; 0 = 500
	// Replicas is how long a search waits for replicas that are behind; 0 = a minute.
	Replicas time.Duration
	topics   int // destinations of one run; 0 = 1000
}

// Deps is what an Importer works with; all stay the caller's.
type Deps struct {
	DB      *pgxpool.Pool    // not through a transaction pooler: a session's lock is held
	Cluster *foreign.Cluster // reads
	ID      string           // of the cluster
	Kafka   []kgo.Opt        // for the client that sends
}

// Importer imports. Safe for concurrent use.
type Importer struct {
	cfg  Config
	deps Deps
	busy time.Duration // how long the topic's lock is waited for
	step func(string)  // tests: called between the steps of a parcel; nil = none
}

// New returns an Importer.
func New(cfg Config, deps Deps) *Importer {
	if cfg.Deliver <= 0 {
		cfg.Deliver = 15 * time.Second
	}
	if cfg.Settle <= 0 {
		cfg.Settle = 20 * time.Second
	}
	if cfg.Parcel <= 0 {
		cfg.Parcel = 500
	}
	if cfg.Replicas <= 0 {
		cfg.Replicas = time.Minute
	}
	if cfg.topics <= 0 {
		cfg.topics = 1000
	}
	return &Importer{cfg: cfg, deps: deps, busy: lockWait}
}

// Errors of Run.
var (
	ErrBusy        = errors.New("another import of this topic is under way")
	ErrDestination = errors.New("nothing can be sent to this topic")
	ErrInDoubt     = errors.New("letters are in doubt")
	ErrTopicID     = errors.New("whether this is the topic of earlier imports cannot be told")
)

const (
	parcelBytes = 8 << 20 // of the letters of a parcel, unless one is larger
	asked       = 1000    // letters that the database is asked about at once
)

// run is one import under way. One goroutine uses it.
type run struct {
	*Importer
	o       Order
	report  *Report
	topicID string
	db      session
	out     *sender
	dests   map[string]*dest
	taken   int64     // letters that go, if nothing comes between
	waiting []*letter // of these: not claimed yet
	bytes   int
	next    time.Time // when the rate allows the next parcel
}

// letter is one that may be sent.
type letter struct {
	place
	foreign.Letter
	rec    *kgo.Record // as it is sent
	dest   *dest
	after  int64 // where the destination's partition ended before
	result error // of sending it
}

var errLimit = errors.New("the limit is reached")

// Run does what o says. Its report is whole up to an error. The error is ErrBusy
// where another process imports this topic now, ErrDestination where Order.To
// cannot be sent to, foreign.ErrNoTopic where there is no dead-letter topic,
// ErrTopicID where the topic's id is told now and was not before or the reverse,
// and ErrInDoubt where Kafka did not answer in time. Ended by ctx, it ends after
// the parcel that is under way.
func (i *Importer) Run(ctx context.Context, o Order) (*Report, error) {
	r := &run{Importer: i, o: o, dests: map[string]*dest{}, report: &Report{
		Topic: o.Topic, Cluster: i.deps.ID, DryRun: o.DryRun, to: map[string]*Destination{}, refused: map[Why]*Refused{}}}
	defer r.report.finish()
	if o.Passed == nil {
		r.o.Passed = &foreign.Progress{}
	}
	var err error
	if r.out, err = newSender(i.deps.Kafka, i.cfg.Deliver); err != nil {
		return r.report, err
	}
	defer r.out.close()
	if o.To != "" {
		d, err := r.destination(ctx, o.To)
		if err != nil {
			return r.report, err
		}
		if d.why != "" {
			return r.report, fmt.Errorf("%w: %s: %s", ErrDestination, o.To, d.detail)
		}
	}
	conn, err := i.deps.DB.Acquire(ctx)
	if err != nil {
		return r.report, fmt.Errorf("postgres: %w", err)
	}
	defer conn.Release()
	r.db = session{conn.Conn()}
	if !o.DryRun {
		r.report.Import = "i-" + strings.ToLower(rand.Text()[:12])
		if err := r.db.lock(ctx, i.deps.ID, o.Topic, i.busy); err != nil {
			return r.report, err
		}
		// The lock is the session's, so the session ends with it.
		defer conn.Conn().Close(context.WithoutCancel(ctx)) //nolint:errcheck // it held nothing but a lock
	}
	err = i.deps.Cluster.InOrder(ctx, o.Topic, o.Since, r.o.Passed, func(x foreign.Extent) error {
		r.topicID, r.report.Undecided = x.ID, x.Undecided
		if o.Begun != nil {
			o.Begun(x)
		}
		if err := r.db.told(ctx, r); err != nil || o.DryRun {
			return err
		}
		if err := r.settle(ctx); err != nil {
			return err
		}
		return r.prune(ctx)
	}, func(recs []*kgo.Record) error { return r.take(ctx, recs) })
	if errors.Is(err, errLimit) {
		r.report.More, err = true, nil
	}
	if err == nil {
		err = r.send(ctx)
	}
	return r.report, err
}

// take looks at records of the topic, and sends what makes a parcel.
func (r *run) take(ctx context.Context, recs []*kgo.Record) error {
	var list []*letter
	for _, rec := range recs {
		l, is := foreign.Read(rec)
		if !is || r.o.Group != "" && l.Fingerprint != r.o.Group || len(r.o.Origins) > 0 && !slices.Contains(r.o.Origins, l.Origin.Topic) {
			continue
		}
		list = append(list, &letter{place: place{rec.Partition, rec.Offset}, Letter: l, rec: rec})
	}
	for some := range slices.Chunk(list, asked) {
		known, err := r.db.states(ctx, r, some)
		if err != nil {
			return err
		}
		for _, l := range some {
			if err := r.choose(ctx, l, known[l.place]); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose decides of one letter.
func (r *run) choose(ctx context.Context, l *letter, state string) error {
	if r.o.Limit > 0 && r.taken >= r.o.Limit {
		return errLimit
	}
	r.report.Letters++
	for _, h := range l.Headers {
		if h.Key == schemas.HeaderImported {
			r.report.Again++
			break
		}
	}
	switch {
	case state == "sent":
		r.report.Before++
		return nil
	case state == "sending": // of a process that is just ending; or, of a dry run, works
		r.report.InDoubt++
		return nil
	case state == "unknown" && !r.o.Again:
		r.report.refuse(l, Unknown, "it may have been sent: the process that sent it ended, and where it would lie cannot be read any more")
		return nil
	}
	why, detail, err := r.aim(ctx, l)
	if err != nil {
		return err
	}
	if why != "" {
		r.report.refuse(l, why, detail)
		return nil
	}
	r.taken++
	if r.o.DryRun {
		r.report.goes(l.dest.name)
		return nil
	}
	size := sizeOf(l.rec)
	if len(r.waiting) > 0 && r.bytes+size > parcelBytes {
		if err := r.send(ctx); err != nil {
			return err
		}
	}
	r.waiting, r.bytes = append(r.waiting, l), r.bytes+size
	if len(r.waiting) >= r.parcel() {
		return r.send(ctx)
	}
	return nil
}

// parcel is about a quarter of a second's worth.
func (r *run) parcel() int {
	if r.o.Rate <= 0 {
		return r.cfg.Parcel
	}
	return min(max(int(r.o.Rate/4), 1), r.cfg.Parcel)
}

// send claims, sends and marks the letters that wait. Once begun it is not ended
// by ctx: what is under way would be in doubt.
func (r *run) send(ctx context.Context) error {
	list := r.waiting
	r.waiting, r.bytes = nil, 0
	if len(list) == 0 {
		return nil
	}
	if r.o.Rate > 0 {
		if now := time.Now(); r.next.Before(now) {
			r.next = now
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Until(r.next)):
		}
		r.next = r.next.Add(time.Duration(float64(len(list)) / r.o.Rate * float64(time.Second)))
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if err := r.ends(ctx, list); err != nil {
		return err
	}
	r.at("claim")
	began := time.Now() // before the claim's own time
	mine, err := r.db.claim(ctx, r, list)
	if err != nil {
		return err
	}
	r.report.Before += int64(len(list) - len(mine)) // by whoever came first
	r.at("claimed")
	r.out.send(ctx, mine, began)
	r.at("sent")
	var sent, not []*letter
	var doubt error
	for _, l := range mine {
		switch {
		case l.result == nil:
			sent = append(sent, l)
		case refusedFor(l.result) != "":
			not = append(not, l)
			r.report.refuse(l, refusedFor(l.result), l.result.Error())
		default:
			r.report.InDoubt++
			doubt = l.result
		}
	}
	if err := r.db.mark(ctx, r, sent, not); err != nil {
		return fmt.Errorf("%w: %d were sent and could not be marked: the next import finds them: %w", ErrInDoubt, len(sent), err)
	}
	for _, l := range sent {
		r.report.goes(l.dest.name)
	}
	r.at("marked")
	if doubt != nil {
		return fmt.Errorf("%w: %d may have been sent: the next import looks for them: %w", ErrInDoubt, r.report.InDoubt, doubt)
	}
	return nil
}

func (r *run) at(step string) {
	if r.step != nil {
		r.step(step)
	}
}

// header is what a sent record says of itself.
func (r *run) header(p place) []byte { return []byte(r.report.Import + " " + p.in(r.o.Topic)) }

// ends notes where the destinations end before anything is sent to them.
func (r *run) ends(ctx context.Context, list []*letter) error {
	var topics []string
	for _, l := range list {
		if !slices.Contains(topics, l.dest.name) {
			topics = append(topics, l.dest.name)
		}
	}
	ends, err := r.out.adm.ListEndOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", strings.Join(topics, ", "), err)
	}
	for _, l := range list {
		end, is := ends.Lookup(l.dest.name, l.rec.Partition)
		if !is {
			return fmt.Errorf("offsets of %s: partition %d is missing", l.dest.name, l.rec.Partition)
		}
		l.after = end.Offset
	}
	return nil
}

// prune forgets letters that retention has taken: nobody can send them again.
func (r *run) prune(ctx context.Context) error {
	starts, err := r.out.adm.ListStartOffsets(ctx, r.o.Topic)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return fmt.Errorf("offsets of %s: %w", r.o.Topic, err)
	}
	var partitions []int32
	var offsets []int64
	starts.Each(func(o kadm.ListedOffset) {
		partitions, offsets = append(partitions, o.Partition), append(offsets, o.Offset)
	})
	return r.db.prune(ctx, r, partitions, offsets)
}
