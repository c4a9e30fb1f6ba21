package app

import (
	"errors"
	"net"
	"testing"
)

func TestAPortThatIsTakenMeanwhileIsNotTheEnd(t *testing.T) {
	var taken []net.Listener
	defer func() {
		for _, l := range taken {
			_ = l.Close()
		}
	}()
	got, port, err := onFreePort(0, false, func(port int) (int, error) {
		if len(taken) < 2 { // another process is quicker
			l, err := net.Listen("tcp", loopbackAddr(port))
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, l)
			return 0, errors.New("address already in use")
		}
		return port, nil
	})
	if err != nil || got != port || len(taken) != 2 {
		t.Fatalf("%d %d %v", got, port, err)
	}
	calls, broken := 0, errors.New("broken")
	if _, _, err := onFreePort(0, false, func(int) (int, error) { calls++; return 0, broken }); !errors.Is(err, broken) || calls != 1 {
		t.Errorf("%v after %d calls: it was not the port", err, calls)
	}
}
