package blocks

// The protocol of `on_dead: block` as a model of one key: its partition's log, the
// outbox before it, two workers, the claims, the set of blocks, the dead-letter
// topic, the index and the one who lifts. Every order of events is tried
// (explore_test.go), workers that die at each step, workers that wake up without
// their partition, and a lost Redis among them.
//
// Three tasks of the key, 0 before 1 before 2; a letter is a (task, epoch).

const (
	tasks  = 3
	epochs = 6
	logCap = 22
	boxCap = 10
	dlqCap = 12
)

type recKind uint8

const (
	noRec recKind = iota
	taskRec
	askRec  // the worker stops here, and says which blocks it knows
	liftRec // the blocks that it names end
	endRec  // all that was released stands before it: the worker goes on
)

// rec is a record of the key.
type rec struct {
	kind        recKind
	task, epoch uint8
	lift        uint8  // number of a lift: of its three marks, and of what it released
	names       uint32 // liftRec: letters whose blocks end
}

func bit(task, epoch uint8) uint32 { return 1 << (task*epochs + epoch) }

// ofTask are the letters that a task may have.
func ofTask(task uint8) uint32 { return (1<<epochs - 1) << (task * epochs) }

// ofLift is the block of an ask that was given up.
func ofLift(lift uint8) uint32 { return 1 << (tasks*epochs + lift) }

type itemKind uint8

const (
	noItem itemKind = iota
	letterItem
	resolvedItem
	answerItem
)

// item is a record of the dead-letter topic.
type item struct {
	kind        itemKind
	task, epoch uint8
	lift        uint8
	parked      bool
	blocks      uint32 // answer: those that the worker knows
}

type claimState uint8

const (
	none claimState = iota
	running
	dead
	done
)

type claim struct {
	state  claimState
	epoch  uint8
	owner  uint8
	at     uint8 // offset of its record
	parked bool  // dead: as one that waits behind a letter
}

type role uint8

const (
	away   role = iota
	owner       // of the partition
	zombie      // it was the owner, and does not know better
)

type phase uint8

const (
	idle phase = iota
	granted
	ran       // the handler succeeded; the claims do not know
	failed    // the handler failed; the claims do not know
	blocking  // dead; its block is not written
	lettering // its block is written, or it needs none
	acking
	committing // an ask: what is below it is not committed yet
	answering  // an ask: nobody was told
	lifting    // a lift: its blocks stand
	ending     // an end: its ask is acknowledged
	yielding   // the ask that it stands at is given up: a block of its own stands
	proving    // it met a death of another owner: is it the owner still?
)

type worker struct {
	role   role
	ready  bool // it has read all blocks that stood when it became the owner
	view   uint32
	acked  uint32
	phase  phase
	cur    uint8
	behind uint32 // granted, to be parked behind these
	parks  bool   // proving, blocking, lettering: it died as one that waits, so it blocks nothing
	stale  bool   // proving: its record is of an earlier epoch
	hold   uint8  // offset + 1 of the ask that it stands at; 0 = none
}

type letterState uint8

const (
	noLetter letterState = iota
	open
	replaying
	resolved
	discarded
)

type letter struct {
	state  letterState
	parked bool
}

type liftState uint8

const (
	noLift liftState = iota
	asked
	answered
)

type budget struct{ deaths, crashes, zombies, losses, dups, discards, giveUps uint8 }

type badState uint8

const (
	fine badState = iota
	badOvertake
	badBound
	badStuck
	badLost
)

func (b badState) String() string {
	return [...]string{"fine", "a task ran before one that stands in front of it", "the bounds are too small", "nothing leads to the end from here", "a task is nowhere"}[b]
}

// world is one state. It is comparable.
type world struct {
	log       [logCap]rec
	end       uint8
	box       [boxCap]rec
	boxed     uint8
	last      rec // the newest that the relay sent, for duplicates
	arrived   uint8
	control   uint32 // blocks that stand, letters
	claims    [tasks]claim
	completed [tasks]bool
	discarded [tasks]bool
	w         [2]worker
	committed uint32
	dlq       [dlqCap]item
	queued    uint8
	letters   [tasks][epochs]letter
	known     [tasks]bool // resolutions
	lift      liftState
	n         uint8
	blocks    uint32 // of the answer
	wanted    bool
	left      budget
	bad       badState
}

// model says what may happen, and which rule is broken on purpose.
type model struct {
	from  budget
	prune bool // what is out of bounds is left out

	noCatchUp    bool // a new owner does not read the blocks first
	noBlock      bool // a death writes no block
	letterFirst  bool // the letter goes out, and is acknowledged, before the block stands
	noHold       bool // the worker goes on at an ask
	blindGiveUp  bool // it gives an ask up without a block
	noAnswer     bool // what was parked is released without the worker's answer
	noBarrier    bool // an ask does not wait for the commit of what is below it
	noProof      bool // a death of another owner is passed without asking Kafka who owns the partition
	noSync       bool // nor are its blocks read up to here
	liftStanding bool // an answered lift does not look again for letters that stand
	noSecondEnd  bool // an answer to a lift that is over is not answered
	noOrphans    bool // one that is parked where no letter stands is not noticed
	endFirst     bool // an end is acknowledged before its ask
	openOnly     bool // a letter that is being replayed no longer stands
	backwards    bool // what was parked is released in another order
}

func (m *model) start() world {
	w := world{left: m.from}
	w.w[0] = worker{role: owner, ready: true}
	return w
}

// emit hands over a changed copy.
type emit func(name string, w world)

// next are all events that can happen in w.
func (m *model) next(w *world, out emit) {
	m.producers(w, out)
	for i := range uint8(2) {
		if w.w[i].role != away {
			m.step(w, i, out)
		}
	}
	m.faults(w, out)
	m.index(w, out)
	m.lifter(w, out)
	m.people(w, out)
}

func (w *world) put(r rec) {
	if w.boxed == boxCap {
		w.bad = badBound
		return
	}
	w.box[w.boxed] = r
	w.boxed++
}

func (w *world) say(i item) {
	if w.queued == dlqCap {
		w.bad = badBound
		return
	}
	w.dlq[w.queued] = i
	w.queued++
}

func (w *world) append(r rec) {
	if w.end == logCap {
		w.bad = badBound
		return
	}
	w.log[w.end] = r
	w.end++
}

// producers enqueue, and the relay carries.
func (m *model) producers(w *world, out emit) {
	if w.arrived < tasks {
		n := *w
		n.put(rec{kind: taskRec, task: w.arrived})
		n.arrived++
		out("enqueue", n)
	}
	if w.boxed > 0 {
		n := *w
		r := w.box[0]
		copy(n.box[:], w.box[1:])
		n.box[boxCap-1] = rec{}
		n.boxed--
		n.append(r)
		n.last = rec{}
		if n.left.dups > 0 {
			n.last = r
		}
		out("relay", n)
	}
	if w.left.dups > 0 && w.last.kind != noRec {
		n := *w
		n.left.dups--
		n.append(w.last)
		n.last = rec{}
		out("relay again", n)
	}
}

// head is the record whose turn it is, or -1.
func (m *model) head(w *world, k *worker) int {
	from, lift := 0, uint8(0)
	if k.hold > 0 {
		from = int(k.hold)
		lift = w.log[k.hold-1].lift
	}
	for o := from; o < int(w.end); o++ {
		r := &w.log[o]
		if k.acked&(1<<o) != 0 {
			continue
		}
		if k.hold == 0 {
			return o
		}
		// Behind a lift only what it released has its turn; its end comes behind that.
		if r.lift == lift && r.kind != askRec {
			return o
		}
	}
	return -1
}

// step is what a worker can do now.
func (m *model) step(w *world, i uint8, out emit) {
	k := &w.w[i]
	if k.view != w.control {
		n := *w
		n.w[i].view = w.control
		out("reads blocks", n)
	}
	if k.role == owner && w.committed != k.acked {
		n := *w
		n.committed = k.acked
		out("commit", n)
	}
	if !k.ready {
		n := *w
		n.w[i].ready = true
		if !m.noCatchUp {
			n.w[i].view = w.control
		}
		out("caught up", n)
		return
	}
	if k.phase == idle && k.hold > 0 && w.left.giveUps > 0 {
		n := *w
		n.left.giveUps--
		kk := &n.w[i]
		kk.phase, kk.cur = yielding, k.hold-1
		if !m.blindGiveUp {
			n.control |= ofLift(w.log[kk.cur].lift)
			kk.view = n.control
		}
		out("blocks the line, to give the ask up", n)
	}
	if k.phase == idle {
		o := m.head(w, k)
		if o < 0 {
			return
		}
		n := *w
		n.w[i].cur = uint8(o)
		m.begin(&n, i, out)
		return
	}
	m.goOn(w, i, out)
}

func (m *model) ack(n *world, i uint8) {
	k := &n.w[i]
	k.acked |= 1 << k.cur
	k.phase = idle
	k.cur, k.behind, k.parks, k.stale = 0, 0, false, false
}

// begin takes the record k.cur, whose turn it is.
func (m *model) begin(n *world, i uint8, out emit) {
	k := &n.w[i]
	r := n.log[k.cur]
	switch r.kind {
	case askRec:
		k.phase = committing
		if m.noBarrier {
			k.phase = answering
		}
		out("ask's turn", *n)
	case liftRec:
		k.phase = lifting
		if k.hold == 0 && !m.noHold {
			m.ack(n, i)
		}
		out("lift's turn", *n)
	case endRec:
		switch {
		case k.hold == 0:
			m.ack(n, i)
			out("end without ask", *n)
		case m.endFirst:
			ask := k.hold - 1
			m.ack(n, i)
			out("end", *n)
			k.cur, k.hold = ask, 0
			m.ack(n, i)
			out("end, and its ask", *n)
		default:
			end := k.cur
			k.cur, k.hold = k.hold-1, 0
			m.ack(n, i)
			k.cur, k.phase = end, ending
			out("ask is over", *n)
		}
	case taskRec:
		m.claim(n, i, r, out)
	}
}

// claim asks the claims about a task's record.
func (m *model) claim(n *world, i uint8, r rec, out emit) {
	k := &n.w[i]
	c := &n.claims[r.task]
	behind := k.view
	behind &^= ofTask(r.task) // its own letter does not stop it, another's does
	grant := func(name string) {
		*c = claim{state: running, epoch: r.epoch, owner: i, at: k.cur}
		k.phase, k.behind = granted, behind
		if behind == 0 {
			m.starts(n, r.task)
		}
		out(name, *n)
	}
	prove := func(name string, stale bool) {
		k.phase, k.stale, k.parks = proving, stale, !stale && c.parked
		out(name, *n)
	}
	switch c.state {
	case none:
		grant("claim")
	case done:
		if r.epoch > 0 {
			n.say(item{kind: resolvedItem, task: r.task})
		}
		m.ack(n, i)
		out("done already", *n)
	case running:
		silent := n.silent(c.owner)
		switch {
		case r.epoch < c.epoch:
			prove("stale", true)
		case r.epoch > c.epoch:
			if c.owner == nobody && !n.delivers(r.task, c.epoch) {
				grant("take over from nobody") // its incarnation is over: see decision 0002
			}
		case c.at != k.cur && !silent:
			m.ack(n, i)
			out("duplicate", *n)
		case silent:
			grant("in doubt")
		}
	case dead:
		switch {
		case r.epoch < c.epoch:
			prove("stale", true)
		case r.epoch > c.epoch:
			grant("claim replay")
		default:
			prove("dead already", false)
		}
	}
}

// nobody is the owner of a claim whose worker is no more.
const nobody = 2

func (w *world) silent(o uint8) bool { return o == nobody || w.w[o].role != owner }

// ends is a worker that is no more.
func (w *world) ends(i uint8) {
	w.w[i] = worker{}
	for t := range w.claims {
		if c := &w.claims[t]; c.state == running && c.owner == i {
			c.owner = nobody
		}
	}
}

// delivers reports whether a record of a task at an epoch can still come.
func (w *world) delivers(task, epoch uint8) bool {
	for o := range w.end {
		if r := w.log[o]; r.kind == taskRec && r.task == task && r.epoch == epoch && w.committed&(1<<o) == 0 {
			return true
		}
	}
	return false
}

// starts checks the order when a handler begins.
func (m *model) starts(n *world, task uint8) {
	for before := range task {
		if !n.completed[before] && !n.discarded[before] {
			n.bad = badOvertake
		}
	}
}

// goOn does the next step of what the worker has begun.
func (m *model) goOn(w *world, i uint8, out emit) {
	k := &w.w[i]
	r := w.log[k.cur]
	mine := func(n *world) bool {
		c := n.claims[r.task]
		return c.state == running && c.owner == i && c.epoch == r.epoch
	}
	switch k.phase {
	case granted:
		n := *w
		if k.behind != 0 {
			kk := &n.w[i]
			if !mine(&n) {
				kk.phase, kk.behind = idle, 0
				out("park: not mine", n)
				return
			}
			n.claims[r.task].state, n.claims[r.task].parked = dead, true
			kk.phase, kk.parks = lettering, true
			out("park", n)
			return
		}
		n.completed[r.task] = true
		n.w[i].phase = ran
		out("succeeds", n)
		if w.left.deaths > 0 {
			n := *w
			n.left.deaths--
			n.w[i].phase = failed
			out("fails", n)
		}
	case ran:
		n := *w
		c := &n.claims[r.task]
		if c.state == dead || r.epoch > 0 {
			n.say(item{kind: resolvedItem, task: r.task})
		}
		*c = claim{state: done}
		m.ack(&n, i)
		out("done", n)
	case failed:
		n := *w
		if !mine(&n) {
			n.w[i].phase = idle
			out("death: not mine", n)
			return
		}
		n.claims[r.task].state, n.claims[r.task].parked = dead, false
		n.w[i].phase = blocking
		out("dead", n)
	case blocking:
		n := *w
		if m.letterFirst {
			n.say(item{kind: letterItem, task: r.task, epoch: r.epoch})
			n.w[i].acked |= 1 << k.cur
			n.w[i].phase = acking
			out("letter before the block", n)
			return
		}
		if !m.noBlock && !k.parks {
			n.control |= bit(r.task, r.epoch)
			n.w[i].view = n.control // it waits until it has read its own
		}
		n.w[i].phase = lettering
		out("block", n)
	case lettering:
		n := *w
		n.say(item{kind: letterItem, task: r.task, epoch: r.epoch, parked: k.parks})
		n.w[i].phase = acking
		out("letter", n)
	case acking:
		n := *w
		if m.letterFirst {
			n.control |= bit(r.task, r.epoch)
			n.w[i].view = n.control
		}
		m.ack(&n, i)
		out("ack", n)
	case yielding:
		n := *w
		n.w[i].hold = 0
		m.ack(&n, i)
		out("gives the ask up", n)
	case ending:
		n := *w
		m.ack(&n, i)
		out("end", n)
	case proving:
		if k.role != owner && !m.noProof {
			return
		}
		n := *w
		if !m.noSync {
			n.w[i].view = n.control
		}
		if k.stale {
			m.ack(&n, i)
		} else {
			n.w[i].phase = blocking
		}
		out("still the owner", n)
	case committing:
		below := uint32(1)<<k.cur - 1
		if k.role == owner && w.committed&below != k.acked&below {
			return // the commit is an event of its own
		}
		if k.role != owner {
			return // its commit fails, and fails
		}
		n := *w
		n.w[i].phase = answering
		out("committed", n)
	case answering:
		n := *w
		n.say(item{kind: answerItem, lift: r.lift, blocks: k.view})
		n.w[i].phase = idle
		n.w[i].hold = k.cur + 1
		n.w[i].cur = 0
		if m.noHold {
			n.w[i].acked |= 1 << k.cur
			n.w[i].hold = 0
		}
		out("answer", n)
	case lifting:
		n := *w
		n.control &^= r.names
		n.w[i].view = n.control
		m.ack(&n, i)
		out("lift", n)
	}
}

// faults: a worker dies, or loses its partition without noticing; Redis forgets.
func (m *model) faults(w *world, out emit) {
	for i := range uint8(2) {
		other := 1 - i
		if w.w[i].role == owner && w.w[other].role == away {
			fresh := worker{role: owner, acked: w.committed}
			if w.left.crashes > 0 {
				n := *w
				n.left.crashes--
				n.ends(i)
				n.w[other] = fresh
				out("crash", n)
			}
			if w.left.zombies > 0 {
				n := *w
				n.left.zombies--
				n.w[i].role, n.w[other] = zombie, fresh
				out("partition moves, unnoticed", n)
			}
		}
		if w.w[i].role == zombie {
			n := *w
			n.ends(i)
			out("notices", n)
		}
	}
	if w.left.losses > 0 {
		n := *w
		n.left.losses--
		for t := range n.claims {
			// What is held is said again; the rest is forgotten.
			if c := n.claims[t]; c.state != running || w.silent(c.owner) {
				n.claims[t] = claim{}
			}
		}
		out("Redis lost", n)
	}
}
