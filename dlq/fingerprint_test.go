package dlq

import (
	"strings"
	"testing"
)

// Two failures of one cause fall into one group, whatever they were about.
func TestFingerprintJoinsOneCause(t *testing.T) {
	for _, c := range []struct{ name, a, b string }{
		{"go dial", "dial tcp 10.0.3.17:5432: connect: connection refused", "dial tcp 10.9.0.1:6432: connect: connection refused"},
		{"go quoted", `strconv.Atoi: parsing "12x": invalid syntax`, `strconv.Atoi: parsing "a \" b": invalid syntax`},
		{"go pointer", "panic: runtime error: invalid memory address (0xc0000a2b40)", "panic: runtime error: invalid memory address (0xdeadbeef)"},
		{"go index", "runtime error: index out of range [5] with length 3", "runtime error: index out of range [1204] with length 7"},
		{"go time", "context deadline exceeded after 30.002s at 2026-11-23T09:05:37.123Z", "context deadline exceeded after 1m2s at 2026-11-24T10:00:00+01:00"},
		{"python", `File "/app/pay.py", line 42, in charge: KeyError: 'cust_19'`, `File "/srv/pay.py", line 7, in charge: KeyError: 'x'`},
		{"python uuid", "ValueError: account f47ac10b-58cc-4372-a567-0e02b2c3d479 not found", "ValueError: account 00000000-0000-4000-8000-000000000000 not found"},
		{"java", `java.lang.NullPointerException: Cannot invoke "String.length()" because "<local4>" is null at com.acme.Foo.bar(Foo.java:42)`,
			`java.lang.NullPointerException: Cannot invoke "String.length()" because "<local1>" is null at com.acme.Foo.bar(Foo.java:9)`},
		{"java hash", "com.acme.Order@1b6d3586 is closed", "com.acme.Order@4554617c is closed"},
		{"http path", "GET /orders/12345/refund: not found", "GET /orders/9/refund: not found"},
		{"hash", "object 9f86d081884c7d659a2feaa0c55ad015 missing", "object deadbeefdeadbeefcafe missing"},
		{"postgres", `duplicate key value violates unique constraint "k" (SQLSTATE 23505), Key (id)=(17)`, `duplicate key value violates unique constraint "k" (SQLSTATE 23505), Key (id)=(401)`},
		{"list", "missing ids: 1, 2, 3", "missing ids: 99, 20, 31"},
		{"task id", "task main-1-77 refused", "task main-1-123456 refused"},
		{"case and space", "Connection  reset\nby peer", "connection reset by peer"},
		{"apostrophe", "can't reach user 17", "can't reach user 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a, b := Normalize(c.a), Normalize(c.b); a != b {
				t.Fatalf("two groups:\n%q\n%q", a, b)
			}
			if a, b := Fingerprint("k", "c", c.a, ""), Fingerprint("k", "c", c.b, ""); a != b {
				t.Fatalf("%s, %s", a, b)
			}
		})
	}
}

// Different causes stay apart, also when only a code tells them apart.
func TestFingerprintPartsDifferentCauses(t *testing.T) {
	for _, c := range []struct{ name, a, b string }{
		{"status", "unexpected status 503 from bank", "unexpected status 422 from bank"},
		{"sqlstate", "ERROR: x (SQLSTATE 23505)", "ERROR: x (SQLSTATE 40001)"},
		{"errno", "connect: errno 111", "connect: errno 113"},
		{"exit", "exit code: 137", "exit code: 1"},
		{"name", "http2: stream closed", "http: stream closed"},
		{"words", "account is closed", "account is frozen"},
		{"function", "com.acme.Foo.bar(Foo.java:42)", "com.acme.Foo.baz(Foo.java:42)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if a, b := Normalize(c.a), Normalize(c.b); a == b {
				t.Fatalf("one group: %q", a)
			}
		})
	}
	if Fingerprint("k", "HTTP 422", "no", "") == Fingerprint("k", "HTTP 500", "no", "") {
		t.Error("the error class does not count")
	}
	if Fingerprint("k1", "c", "no", "") == Fingerprint("k2", "c", "no", "") {
		t.Error("the kind does not count")
	}
	if Fingerprint("k", "c", "no", "main.a()") == Fingerprint("k", "c", "no", "main.b()") {
		t.Error("the frame does not count")
	}
	if Fingerprint("k", "ab", "c", "") == Fingerprint("k", "a", "bc", "") {
		t.Error("parts run into each other")
	}
}

// Fingerprints are stored: a change of the rules must change fingerprintVersion.
func TestFingerprintIsStable(t *testing.T) {
	const text = `refund "r-17" refused: amount 120.50 over limit`
	if got, want := Fingerprint("refund.issue", "HTTP 422", text, ""), "fp2:e2743f20c235a666"; got != want {
		t.Errorf("got %s, stored groups have %s", got, want)
	}
	if got, want := firstFingerprint("refund.issue", "HTTP 422", text, ""), "fp1:e2743f20c235a666"; got != want {
		t.Errorf("got %s, stored groups have %s", got, want)
	}
	for text, want := range map[string]string{
		causesOf["python"]["value error"][0]: "fp2:a43618c91ad8d255", causesOf["java"]["sql"][0]: "fp2:787f237b155aedd5", causesOf["node"]["cause"][0]: "fp2:77ccea8104446626",
		causesOf["go"]["index"][0]: "fp2:8c0146e53ab77ef9", causesOf["http"]["fields"][0]: "fp2:74865ea1188505c1",
	} {
		if got := Fingerprint("refund.issue", "HTTP 500", text, ""); got != want {
			t.Errorf("got %s, stored groups have %s, of:\n%s", got, want, text)
		}
	}
}

func FuzzFingerprint(f *testing.F) {
	f.Add("dial tcp 10.0.3.17:5432: refused", 3)
	f.Add("can't 'x' \"y\\\" 12 #", 9)
	f.Fuzz(func(t *testing.T, s string, n int) {
		a := Normalize(s)
		if len(a) > 4*maxNormal {
			t.Fatalf("%d bytes from %d", len(a), len(s))
		}
		// Another id in the same place is the same cause.
		if n < 0 {
			n = -(n + 1)
		}
		tail := strings.Repeat("9", n%12+1)
		if x, y := Normalize("id 1, "+s), Normalize("id "+tail+", "+s); len(s) < maxNormal-32 && x != y {
			t.Fatalf("%q, %q", x, y)
		}
	})
}

// A release built in another folder must not open a new group.
func TestFingerprintForgetsWhereItWasBuilt(t *testing.T) {
	print := func(frame string) string {
		return Fingerprint("k", "panic", "boom", lastFrame([]Attempt{{Stack: frame + "\nmain.main /x/main.go:1"}}))
	}
	here := print("example.com/shop/refunds.(*Handler).Run /home/ada/src/refunds/handler.go:88")
	if there := print("example.com/shop/refunds.(*Handler).Run /build/refunds/handler.go:91"); here != there {
		t.Errorf("%s is not %s", here, there)
	}
	if other := print("example.com/shop/refunds.(*Handler).Undo /build/refunds/handler.go:91"); here == other {
		t.Error("another function has the same fingerprint")
	}
}
