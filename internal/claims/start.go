package claims

// First attempts of tasks that have no claim: nearly all there are. One script
// call grants them all, and what it writes is a few bitmap operations and one
// value a chunk, however many they are. See lua/chunk.lua for what stands then.

import (
	"context"
	"encoding/binary"
	"slices"
	"strconv"

	"github.com/perdure/perdure/schemas"
)

// maxStart is how many tasks one such call grants at most: its value in Redis is
// 6 bytes a task.
const maxStart = 4000

// startPart is what a call asks for in one chunk and partition.
type startPart struct {
	key  string
	id   schemas.ID // its first task
	at   Coord      // its topic and partition, and the lowest offset
	recs []int
	bits bitset

	field string // in dk:runs
}

// plain reports whether a record can be granted as an entry. A shared one gets a
// claim of its own: several processes may have it at once.
func (r *Record) plain() bool {
	return !r.Timer && r.Attempt == 1 && r.Epoch == 0 && r.Run == 0 && !r.Alone && !r.Known && !r.Shared && r.Coord.Offset >= 0
}

// start grants what it can of recs, whose ids are parsed in ids, and returns the
// numbers of the others, in order: claim.lua decides those.
func (s *Store) start(ctx context.Context, inc *incarnation, proc, owner, token string, recs []Record, ids []schemas.ID, grants []Grant) (rest []int, err error) {
	parts, rest := s.startParts(recs, ids)
	if len(parts) == 0 {
		return rest, nil
	}
	keys := append(make([]string, 0, 4+len(parts)), s.k.inc, s.k.hold, s.k.beat(proc), s.k.void(token))
	args := append(make([]any, 0, 2+4*len(parts)), inc.token, s.cfg.Horizon.Milliseconds())
	for i := range parts {
		p := &parts[i]
		keys = append(keys, p.key)
		p.field = token + "/" + strconv.Itoa(int(p.at.Partition))
		args = append(p.bits.append(args), p.field, p.value(owner, recs, ids))
	}
	res, err := s.run(ctx, startScript, inc, keys, args)
	if err != nil {
		return nil, err
	}
	list, err := replies(res, len(parts))
	if err != nil {
		return nil, err
	}
	run := schemas.FirstRun(0, inc.n) + 1
	refused := false
	for i := range parts {
		p := &parts[i]
		if number(list[i]) != 1 {
			rest, refused = append(rest, p.recs...), true
			continue
		}
		lease := &Lease{chunk: p.key, field: p.field, run: run, open: p.bits}
		for _, n := range p.recs {
			grants[n] = Grant{Verdict: VerdictRun, Run: run, Attempt: 1, Lease: lease, Claim: Claim{
				State: Running, Attempt: 1, Run: run, Owner: owner, Coord: recs[n].Coord,
			}}
		}
	}
	if refused {
		slices.Sort(rest)
	}
	return rest, nil
}

// startParts sorts records into chunks; rest is what cannot be an entry, and
// whatever else is of the same tasks.
func (s *Store) startParts(recs []Record, ids []schemas.ID) (parts []startPart, rest []int) {
	var others map[string]bool
	for i := range recs {
		if !recs[i].plain() {
			if others == nil {
				others = map[string]bool{}
			}
			others[recs[i].TaskID] = true
		}
	}
	last := -1
	for i := range recs {
		r, id := &recs[i], &ids[i]
		if !r.plain() || others != nil && others[r.TaskID] {
			rest = append(rest, i)
			continue
		}
		if last < 0 || !parts[last].holds(id, &r.Coord) {
			for last = 0; last < len(parts) && !parts[last].holds(id, &r.Coord); last++ { //nolint:revive // finds it
			}
			if last == len(parts) {
				parts = append(parts, startPart{key: s.k.chunk(id.Source, id.Generation, id.Seq/ChunkBits), id: *id, at: r.Coord})
			}
		}
		p := &parts[last]
		if r.Coord.Topic != parts[0].at.Topic || !p.near(r.Coord.Offset) || !p.bits.set(id.Seq%ChunkBits) {
			rest = append(rest, i) // another topic's, or this task once more
			continue
		}
		p.at.Offset = min(p.at.Offset, r.Coord.Offset)
		p.recs = append(p.recs, i)
	}
	return parts, rest
}

func (p *startPart) holds(id *schemas.ID, at *Coord) bool {
	return p.at.Partition == at.Partition && p.id.Seq/ChunkBits == id.Seq/ChunkBits && p.id.Generation == id.Generation && p.id.Source == id.Source
}

// near reports whether an offset can stand beside the part's others: their
// differences are 32 bits.
func (p *startPart) near(offset int64) bool {
	const most = 1 << 30
	return offset-p.at.Offset < most && p.at.Offset-offset < most
}

// value is the part's entry in Redis.
func (p *startPart) value(owner string, recs []Record, ids []schemas.ID) []byte {
	v := make([]byte, 0, len(owner)+len(p.at.Topic)+48+6*len(p.recs))
	v = append(append(v, owner...), ' ')
	v = append(append(v, p.at.Topic...), '/')
	v = append(strconv.AppendInt(v, int64(p.at.Partition), 10), ' ')
	v = append(strconv.AppendInt(v, p.at.Offset, 10), ' ')
	for _, n := range p.recs {
		v = binary.BigEndian.AppendUint16(v, uint16(ids[n].Seq%ChunkBits))
		v = binary.BigEndian.AppendUint32(v, uint32(recs[n].Coord.Offset-p.at.Offset))
	}
	return v
}

// finishPart is what a call says of one chunk.
type finishPart struct {
	key   string
	done  []int
	bits  bitset
	spent []byte // fields of leases of which nothing is left
}

// finish marks as done what stands as entries, and returns the numbers of the
// other outcomes: done.lua decides those. It also removes spent leases.
func (s *Store) finish(ctx context.Context, owner string, done []Outcome, out []DoneResult) (rest []int, err error) {
	var parts []finishPart
	of := func(key string) *finishPart {
		for i := range parts {
			if parts[i].key == key {
				return &parts[i]
			}
		}
		parts = append(parts, finishPart{key: key})
		return &parts[len(parts)-1]
	}
	var p *finishPart
	for i := range done {
		o := &done[i]
		if o.Lease == nil || o.Epoch != 0 || o.Run != o.Lease.run {
			rest = append(rest, i)
			continue
		}
		if p == nil || p.key != o.Lease.chunk {
			p = of(o.Lease.chunk)
		}
		id, err := schemas.ParseID(o.TaskID)
		if err != nil {
			return nil, err
		}
		if !p.bits.set(id.Seq % ChunkBits) {
			rest = append(rest, i) // said twice in one call
			continue
		}
		p.done = append(p.done, i)
	}
	spent := s.takeSpent()
	for _, l := range spent {
		p := of(l.chunk)
		p.spent = append(append(p.spent, l.field...), ' ')
	}
	if len(parts) == 0 {
		return rest, nil
	}
	accepted, err := s.finishParts(ctx, owner, parts)
	if err != nil {
		s.spendAgain(spent)
		return nil, err
	}
	refused := false
	for i := range parts {
		if !accepted[i] {
			rest, refused = append(rest, parts[i].done...), true
			continue
		}
		for _, n := range parts[i].done {
			out[n] = DoneResult{Mine: true}
			s.settleLease(done[n].Lease, done[n].TaskID)
		}
	}
	if refused {
		slices.Sort(rest)
	}
	return rest, nil
}

func (s *Store) finishParts(ctx context.Context, owner string, parts []finishPart) ([]bool, error) {
	inc, err := s.opened()
	if err != nil {
		return nil, err
	}
	if _, err := process(owner); err != nil {
		return nil, err
	}
	keys := append(make([]string, 0, 1+len(parts)), s.k.inc)
	args := append(make([]any, 0, 2+3*len(parts)), inc.token, s.cfg.Horizon.Milliseconds())
	for i := range parts {
		keys = append(keys, parts[i].key)
		args = append(parts[i].bits.append(args), parts[i].spent)
	}
	res, err := s.run(ctx, finishScript, inc, keys, args)
	if err != nil {
		return nil, err
	}
	list, err := replies(res, len(parts))
	if err != nil {
		return nil, err
	}
	accepted := make([]bool, len(parts))
	for i := range list {
		accepted[i] = number(list[i]) == 1
	}
	return accepted, nil
}
