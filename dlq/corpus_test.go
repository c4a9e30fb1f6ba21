package dlq

// Errors as they come from production, whole: of each cause some, which are one group;
// all causes of a language are of one kind and class, so that the text alone parts them.

import (
	"fmt"
	"strings"
	"testing"
)

func pythonTrace(release string, line int, middle int, tail string) string {
	var b strings.Builder
	b.WriteString("Traceback (most recent call last):\n")
	for i := range middle { // frameworks call on through many frames before anything of ours
		fmt.Fprintf(&b, "  File \"/opt/venv/lib/python3.11/site-packages/celery/app/trace.py\", line %d, in wrapper_%c\n    return fun(*args, **kwargs)\n           ^^^^^^^^^^^^^^^^^^^^\n", 400+i, 'a'+rune(i%20))
	}
	fmt.Fprintf(&b, "  File \"/srv/%s/refunds/tasks.py\", line %d, in issue\n    charge(account)\n%s", release, line, tail)
	return b.String()
}

func javaTrace(line int, proxy int, depth int, cause string) string {
	var b strings.Builder
	b.WriteString("org.springframework.web.util.NestedServletException: Request processing failed; nested exception is below\n")
	for i := range depth {
		fmt.Fprintf(&b, "\tat org.springframework.web.servlet.FrameworkServlet.process%c(FrameworkServlet.java:%d)\n", 'A'+rune(i%20), 900+i)
	}
	fmt.Fprintf(&b, "\tat jdk.proxy2/com.sun.proxy.$Proxy%d.charge(Unknown Source)\n", proxy)
	fmt.Fprintf(&b, "Caused by: %s\n\tat java.base/java.util.Objects.requireNonNull(Objects.java:%d)\n\tat com.acme.refunds.Ledger.book(Ledger.java:%d)\n\tat com.acme.refunds.Issue.run(Issue.java:%d)\n\t... %d more\n",
		cause, line+200, line, line+9, depth+3)
	return b.String()
}

func nodeTrace(head string, line, modules int, at string) string {
	var b strings.Builder
	b.WriteString(head + "\n")
	for i := range modules {
		fmt.Fprintf(&b, "    at Pool.query (/app/node_modules/pg-pool/index.js:%d:11)\n", 40+i)
	}
	fmt.Fprintf(&b, "    at async %s (/app/releases/%d/src/refunds.js:%d:7)\n    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)", at, 20261100+line, line)
	return b.String()
}

func goPanic(head string, routine int, fn string, line int) string {
	return fmt.Sprintf(`%s

goroutine %d [running]:
runtime/debug.Stack()
	/usr/local/go/src/runtime/debug/stack.go:26 +0x5e
panic({0x7f%06x, 0xc000%05x})
	/usr/local/go/src/runtime/panic.go:791 +0x132
runtime.goPanicIndex(0x%x, 0x3)
	/usr/local/go/src/runtime/panic.go:115 +0x74
%s(0xc000%05x, {0xc0001%05x, 0x%x})
	/build/%d/refunds/issue.go:%d +0x1d
created by github.com/acme/refunds.(*Pool).start in goroutine %d
	/build/%d/refunds/pool.go:%d +0x85`, head, routine, routine, routine, routine, fn, routine, routine, routine, routine, line, routine+1, routine, line+7)
}

// causesOf are texts by language and cause.
var causesOf = map[string]map[string][]string{
	"python": {
		"key error": {
			pythonTrace("1.4.0", 88, 1, "  File \"/srv/1.4.0/refunds/bank.py\", line 31, in charge\n    return LIMITS[account.tier]\n           ~~~~~~^^^^^^^^^^^^^^\nKeyError: 'gold-17'\n"),
			pythonTrace("1.5.2", 93, 14, "  File \"/srv/1.5.2/refunds/bank.py\", line 44, in charge\n    return LIMITS[account.tier]\nKeyError: 'tier_9'\n"), // the error stands behind the first kilobyte
		},
		"value error": {
			pythonTrace("1.4.0", 88, 14, "  File \"/srv/1.4.0/refunds/bank.py\", line 35, in charge\n    amount = Decimal(raw)\nValueError: amount is negative: -120.50\n"),
			pythonTrace("1.4.0", 88, 2, "  File \"/srv/1.4.0/refunds/bank.py\", line 35, in charge\n    amount = Decimal(raw)\nValueError: amount is negative: -3\n"),
		},
		"another function": {
			pythonTrace("1.4.0", 88, 14, "  File \"/srv/1.4.0/refunds/bank.py\", line 60, in reverse\n    return LIMITS[account.tier]\nKeyError: 'gold-17'\n"),
		},
		"raised from": {
			pythonTrace("2.0", 7, 3, "  File \"/opt/venv/lib/python3.11/site-packages/urllib3/connection.py\", line 203, in _new_conn\n    sock = connect()\nConnectionRefusedError: [Errno 111] Connection refused\n"+
				"\n"+directCauseText+"\n\n"+"Traceback (most recent call last):\n  File \"/srv/2.0/refunds/tasks.py\", line 9, in issue\n    raise BankAway(id) from e\nrefunds.BankAway: task main-1-77 cannot reach 10.0.3.17:8443\n"),
			pythonTrace("2.1", 9, 9, "  File \"/opt/venv/lib/python3.12/site-packages/urllib3/connection.py\", line 198, in _new_conn\n    sock = connect()\nConnectionRefusedError: [Errno 111] Connection refused\n"+
				"\n"+directCauseText+"\n\n"+"Traceback (most recent call last):\n  File \"/srv/2.1/refunds/other.py\", line 12, in again\n    raise BankAway(id) from e\nrefunds.BankAway: task main-1-9000 cannot reach 10.0.9.1:8443\n"),
		},
	},
	"java": {
		"null": {
			javaTrace(42, 17, 3, `java.lang.NullPointerException: Cannot invoke "String.length()" because "<local4>" is null`),
			javaTrace(57, 201, 25, `java.lang.NullPointerException: Cannot invoke "String.length()" because "<local1>" is null`),
		},
		"state": {
			javaTrace(42, 17, 25, "java.lang.IllegalStateException: account 4711 is closed"),
			javaTrace(43, 9, 2, "java.lang.IllegalStateException: account 9 is closed"),
		},
		"sql": {
			javaTrace(88, 3, 25, "org.postgresql.util.PSQLException: ERROR: deadlock detected (SQLSTATE 40P01)\n  Detail: Process 17 waits for ShareLock on transaction 9921"),
			javaTrace(88, 4, 1, "org.postgresql.util.PSQLException: ERROR: deadlock detected (SQLSTATE 40P01)\n  Detail: Process 4 waits for ShareLock on transaction 12"),
		},
	},
	"node": {
		"undefined": {
			nodeTrace("TypeError: Cannot read properties of undefined (reading 'iban')", 17, 0, "Refund.issue"),
			nodeTrace("TypeError: Cannot read properties of undefined (reading 'iban')", 31, 6, "Refund.issue"),
		},
		"another function": {nodeTrace("TypeError: Cannot read properties of undefined (reading 'iban')", 17, 0, "Refund.reverse")},
		"timeout": {
			nodeTrace("Error: timeout of 3000ms exceeded", 90, 2, "Refund.issue"),
			nodeTrace("Error: timeout of 500ms exceeded", 91, 0, "Refund.issue"),
		},
		"cause": {
			nodeTrace("Error: refund r-17 failed", 5, 0, "Refund.issue") + " {\n  [cause]: " + nodeTrace("Error: connect ECONNREFUSED 10.0.3.17:8443", 8, 4, "Bank.call"),
			nodeTrace("Error: refund r-99821 failed", 9, 2, "Refund.again") + " {\n  [cause]: " + nodeTrace("Error: connect ECONNREFUSED 10.9.9.9:8443", 12, 1, "Bank.call"),
		},
	},
	"go": {
		"index": {
			goPanic("panic: runtime error: index out of range [5] with length 3", 17, "github.com/acme/refunds.(*Handler).Issue", 88),
			goPanic("panic: runtime error: index out of range [1204] with length 7", 90211, "github.com/acme/refunds.(*Handler).Issue", 91),
		},
		"another function": {goPanic("panic: runtime error: index out of range [5] with length 3", 17, "github.com/acme/refunds.(*Handler).Undo", 88)},
		"nil": {
			goPanic("panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x47e2f1]", 4, "github.com/acme/refunds.(*Handler).Issue", 12),
			goPanic("panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x18 pc=0x4a1003]", 5511, "github.com/acme/refunds.(*Handler).Issue", 13),
		},
		"wrapped": {
			`issue refund r-17: call bank: Post "http://10.0.3.17:8443/run": dial tcp 10.0.3.17:8443: connect: connection refused`,
			`issue refund r-9: call bank: Post "http://10.9.0.2:8443/run": dial tcp 10.9.0.2:8443: connect: connection refused`,
		},
		"wrapped otherwise": {`issue refund r-17: call bank: Post "http://10.0.3.17:8443/run": context deadline exceeded`},
	},
	"http": {
		"declined": {
			`{"error":"card_declined","request_id":"req_8fj2kQ","amount":12050}`,
			`{"amount": 3, "error": "card_declined", "request_id": "req_ZZi01"}`,
		},
		"frozen": {`{"error":"account_frozen","request_id":"req_8fj2kQ","amount":12050}`},
		"nested": {
			`{"error":{"type":"invalid_request_error","code":"parameter_missing","message":"Missing required param: \"source\".","doc_url":"https://x/1"},"livemode":true}`,
			`{"livemode":false,"error":{"message":"Missing required param: \"customer\".","type":"invalid_request_error","code":"parameter_missing","doc_url":"https://x/2"}}`,
		},
		"nested otherwise": {`{"error":{"type":"invalid_request_error","code":"resource_missing","message":"Missing required param: \"source\".","doc_url":"https://x/1"},"livemode":true}`},
		"fields": {
			`{"errors":[{"field":"iban","rule":"checksum","value":"DE89"},{"field":"name","rule":"long","value":"x"}]}`,
			`{"errors":[{"field":"iban","rule":"checksum","value":"AT61"}]}`,
		},
		"other field": {`{"errors":[{"field":"bic","rule":"checksum","value":"DE89"}]}`},
		"html":        {"<html><head><title>502 Bad Gateway</title></head><body><hr>nginx/1.25.3</body></html>", "<html><head><title>502 Bad Gateway</title></head><body><hr>nginx/1.27.0</body></html>"},
	},
}

const directCauseText = "The above exception was the direct cause of the following exception:"

// One cause is one group, whatever it was about, wherever it was built and by which way
// it was reached; another cause is another group.
func TestCorpusOfErrors(t *testing.T) {
	for lang, causes := range causesOf {
		groups := map[string]string{} // fingerprint → cause
		for cause, texts := range causes {
			for i, text := range texts {
				fp := Fingerprint("k", "HTTP 500", text, "")
				if other, taken := groups[fp]; taken && other != cause {
					t.Errorf("%s: %q and %q are one group", lang, cause, other)
				}
				if first := Fingerprint("k", "HTTP 500", texts[0], ""); fp != first {
					t.Errorf("%s: text %d of %q is another group than the first:\n%s\n%s", lang, i, cause, texts[0], text)
				}
				groups[fp] = cause
			}
		}
	}
}

// What the second version is for: the first had these as one group, or as two.
func TestTheSecondVersionSeesWhatTheFirstDidNot(t *testing.T) {
	first := func(text string) string { return firstFingerprint("k", "HTTP 500", text, "") }
	py, web := causesOf["python"], causesOf["http"]
	if first(py["value error"][0]) != first(py["another function"][0]) {
		t.Error("the first version looked behind the first kilobyte")
	}
	if first(web["declined"][0]) != first(web["frozen"][0]) {
		t.Error("the first version parted JSON bodies")
	}
	if first(py["key error"][0]) == first(py["key error"][1]) {
		t.Error("the first version joined a cause that was reached by two ways")
	}
}
