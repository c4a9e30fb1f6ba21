package imports

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// What lies there but cannot be read yet was sent all the same.
func TestNothingIsDecidedBeforeReplicasHaveIt(t *testing.T) {
	c := faked(t)
	r := newRigAt(t, "", c.ListenAddrs())
	r.letters(0, 0, 6)
	r.end("sent", r.order())
	var behind atomic.Bool
	behind.Store(true)
	c.ControlKey(int16(kmsg.ListOffsets), func(kreq kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		req := kreq.(*kmsg.ListOffsetsRequest)
		if !behind.Load() || req.ReplicaID == -2 || req.Topics[0].Topic != r.orders || req.Topics[0].Partitions[0].Timestamp != -1 {
			return nil, nil, false
		}
		resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
		for _, rt := range req.Topics {
			topic := kmsg.ListOffsetsResponseTopic{Topic: rt.Topic}
			for _, rp := range rt.Partitions {
				p := kmsg.NewListOffsetsResponseTopicPartition()
				p.Partition, p.Offset = rp.Partition, 0
				topic.Partitions = append(topic.Partitions, p)
			}
			resp.Topics = append(resp.Topics, topic)
		}
		return resp, nil, true
	})
	r.imp.cfg.Replicas = 300 * time.Millisecond
	rep, err := r.imp.Run(t.Context(), r.order())
	if !errors.Is(err, ErrInDoubt) || !strings.Contains(err.Error(), "replicas") || rep.Sent != 0 || r.inState("sending") != 6 {
		t.Errorf("%+v, %v; %d are as they were", rep, err, r.inState("sending"))
	}
	behind.Store(false)
	if rep := r.run(r.order()); rep.Settled != (Settled{Found: 6}) || rep.Sent != 0 {
		t.Errorf("%+v", rep)
	}
	r.wantOnce(6)
}

// Its row may name another run than the one that sent it.
func TestALetterIsFoundByItsPlace(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 6)
	r.end("sent", r.order())
	if _, err := r.db.Exec(t.Context(), `update perdure.imported set import = 'i-later'`); err != nil {
		t.Fatal(err)
	}
	if rep := r.run(r.order()); rep.Settled != (Settled{Found: 6}) || rep.Sent != 0 {
		t.Errorf("%+v", rep)
	}
	r.wantOnce(6)
}

// A topic that has an id now and had none is perhaps the same, perhaps not.
func TestATopicWhoseIDCameIsNotImportedAgain(t *testing.T) {
	r := newRig(t)
	r.letters(0, 0, 3)
	r.run(r.order())
	exec := func(sql string, args ...any) {
		t.Helper()
		if _, err := r.db.Exec(t.Context(), sql, args...); err != nil {
			t.Fatal(err)
		}
	}
	var id string
	if err := r.db.QueryRow(t.Context(), `select min(topic_id) from perdure.imported where to_topic_id <> topic_id and to_topic_id <> ''`).Scan(&id); err != nil || id == "" {
		t.Fatal(id, err)
	}
	const move = `update perdure.imported set topic_id = $1, letter = cluster || '/' || topic || '/' || $1 || '/' || partition || '/' || "offset"`
	exec(move, "")
	for _, dry := range []bool{true, false} {
		o := r.order()
		o.DryRun = dry
		if rep, err := r.imp.Run(t.Context(), o); !errors.Is(err, ErrTopicID) || !strings.Contains(err.Error(), id) || rep.Sent+rep.WouldSend != 0 || r.inState("sent") != 3 {
			t.Errorf("dry %v: %+v, %v; %d rows", dry, rep, err, r.inState("sent"))
		}
	}
	exec(move, id)
	if rep := r.run(r.order()); rep.Before != 3 {
		t.Errorf("%+v", rep)
	}
	exec(move, "of the topic before")
	if rep := r.run(r.order()); rep.Sent != 3 || r.inState("sent") != 3 {
		t.Errorf("of a topic that was made anew: %+v, %d rows", rep, r.inState("sent"))
	}
}
