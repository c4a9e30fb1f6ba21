package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// clean gives a test an environment without any PERDURE_ variable and a data
// directory of its own.
func clean(t *testing.T) (dataHome string) {
	t.Helper()
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); strings.HasPrefix(name, "PERDURE_") {
			t.Setenv(name, "") // restores it afterwards
			if err := os.Unsetenv(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	dataHome = t.TempDir()
	t.Setenv("XDG_DATA_HOME", dataHome)
	return dataHome
}

func TestDefaults(t *testing.T) {
	home := clean(t)
	t.Setenv("SOURCE", "not-ours")
	t.Setenv("HISTORY", "1000")
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.Source != "main" || c.History != 168*time.Hour || c.RedisKeyPrefix != "perdure:" || c.KafkaTopics != "create" || c.OutboxLimit != 10_000_000 {
		t.Errorf("defaults: %+v", c)
	}
	if want := filepath.Join(home, "perdure"); c.DataDir != want {
		t.Errorf("DataDir = %q, want %q", c.DataDir, want)
	}
}

func TestTheHistoryMayBeAMinute(t *testing.T) {
	clean(t)
	t.Setenv("PERDURE_HISTORY", "1m")
	if c, err := Load(); err != nil || c.History != time.Minute {
		t.Errorf("history %v, %v", c.History, err)
	}
}

func TestDataDirIsNeverTheWorkingDirectory(t *testing.T) {
	clean(t)
	t.Setenv("XDG_DATA_HOME", "relative")
	t.Setenv("HOME", "/home/someone")
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != "/home/someone/.local/share/perdure" {
		t.Errorf("DataDir = %q", c.DataDir)
	}
	t.Setenv("HOME", "")
	if c, err = Load(); err != nil || c.DataDir != "" {
		t.Errorf("without a home: DataDir = %q, %v", c.DataDir, err)
	}
}

func TestWrongValuesNameTheVariable(t *testing.T) {
	tests := []struct{ name, value, want string }{
		{"PERDURE_SOURCE", "Main!", "a-z"},
		{"PERDURE_HISTORY", "7d", "a duration such as"},
		{"PERDURE_HISTORY", "59s", "at least 1m"},
		{"PERDURE_CONCURRENCY", "many", "a whole number"},
		{"PERDURE_CONCURRENCY", "0", "1 to 100000"},
		{"PERDURE_CONCURRENCY", "100001", "1 to 100000"},
		{"PERDURE_OUTBOX_LIMIT", "10M", "a whole number"},
		{"PERDURE_OUTBOX_LIMIT", "-1", "0 is no limit"},
		{"PERDURE_LOG_FORMAT", "xml", "neither text nor json"},
		{"PERDURE_LOG_LEVEL", "loud", "debug, info, warn, error"},
		{"PERDURE_HTTP_ADDR", "8080", "host:port"},
		{"PERDURE_HTTP_ADDR", "localhost:http", "no port"},
		{"PERDURE_API_URL", "localhost:7070", "http://"},
		{"PERDURE_INSTANCE", "a b", "cannot name a process"},
		{"PERDURE_POSTGRES_URL", "mysql://x", "postgres://"},
		{"PERDURE_POSTGRES_DIRECT_URL", "nonsense", "postgres://"},
		{"PERDURE_REDIS_ADDRS", "a:1,b", "host:port"},
		{"PERDURE_REDIS_TLS", "maybe", "true or false"},
		{"PERDURE_KAFKA_BROKERS", ":9092", "no host"},
		{"PERDURE_KAFKA_SASL_MECHANISM", "GSSAPI", "none of PLAIN"},
		{"PERDURE_KAFKA_SASL_USERNAME", "me", "PERDURE_KAFKA_SASL_MECHANISM"},
		{"PERDURE_KAFKA_TLS_CA_FILE", "/does/not/exist", "no such file"},
		{"PERDURE_REDIS_TLS_CA_FILE", "/dev/null", "PERDURE_REDIS_TLS is not true"},
		{"PERDURE_REDIS_TLS_CERT_FILE", "/dev/null", "set both or none"},
		{"PERDURE_REDIS_SENTINEL_PASSWORD", "x", "PERDURE_REDIS_MASTER_NAME is not"},
		{"PERDURE_KAFKA_TOPICS", "maybe", "create nor check"},
		{"PERDURE_KAFKA_TOPIC_PREFIX", "a/b", "at most 60"},
	}
	for _, tt := range tests {
		t.Run(tt.name+"="+tt.value, func(t *testing.T) {
			clean(t)
			t.Setenv(tt.name, tt.value)
			_, err := Load()
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "PERDURE_") {
				t.Errorf("got %v, want it to name the variable and say %q", err, tt.want)
			}
		})
	}
}

func TestSecretsFromFiles(t *testing.T) {
	clean(t)
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PERDURE_REDIS_PASSWORD_FILE", path)
	c, err := Load()
	if err != nil || c.RedisPassword != "s3cret" {
		t.Fatalf("RedisPassword = %q, %v", c.RedisPassword, err)
	}
	t.Setenv("PERDURE_REDIS_PASSWORD", "other")
	if _, err = Load(); err == nil || !strings.Contains(err.Error(), "both set") {
		t.Errorf("both set: %v", err)
	}
	t.Setenv("PERDURE_REDIS_PASSWORD", "")
	t.Setenv("PERDURE_REDIS_PASSWORD_FILE", path+"-missing")
	if _, err = Load(); err == nil || !strings.Contains(err.Error(), "PERDURE_REDIS_PASSWORD_FILE") {
		t.Errorf("missing file: %v", err)
	}
}

// A token that is renewed in its file is the new one at once; one that stands in
// the environment stays what it is.
func TestAKafkaSecretInAFileIsReadAgain(t *testing.T) {
	clean(t)
	path := filepath.Join(t.TempDir(), "token")
	write := func(token string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	t.Setenv("PERDURE_KAFKA_SASL_MECHANISM", "OAUTHBEARER")
	t.Setenv("PERDURE_KAFKA_SASL_PASSWORD_FILE", path)
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	write("second")
	if got, err := c.KafkaSASLSecret(); err != nil || got != "second" {
		t.Errorf("%q, %v", got, err)
	}
	write("")
	if _, err := c.KafkaSASLSecret(); err == nil || !strings.Contains(err.Error(), "PERDURE_KAFKA_SASL_PASSWORD_FILE") {
		t.Errorf("an empty file: %v", err)
	}
	t.Setenv("PERDURE_KAFKA_SASL_PASSWORD_FILE", "")
	t.Setenv("PERDURE_KAFKA_SASL_PASSWORD", "third")
	if c, err = Load(); err != nil {
		t.Fatal(err)
	}
	if got, err := c.KafkaSASLSecret(); err != nil || got != "third" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestEnvFileFillsInOnlyWhatIsOpen(t *testing.T) {
	home := clean(t)
	dir := filepath.Join(home, "perdure")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lines := []EnvLine{
		{"PERDURE_POSTGRES_URL", "postgres://u:p$'q@127.0.0.1:1/db?sslmode=disable"},
		{"PERDURE_KAFKA_BROKERS", "127.0.0.1:2"},
		{"PERDURE_SOURCE", "from-file"},
		{"PERDURE_OF_A_LATER_VERSION", "x"},
	}
	if err := WriteEnvFile(EnvFile(dir), lines); err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(EnvFile(dir)); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v: want 0600", st.Mode(), err)
	}
	got, err := ReadEnvFile(EnvFile(dir))
	if err != nil || !slices.Equal(got, lines) {
		t.Fatalf("read back %v, %v", got, err)
	}
	t.Setenv("PERDURE_SOURCE", "from-env")
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if c.PostgresURL != lines[0].Value || c.Source != "from-env" {
		t.Errorf("PostgresURL %q, Source %q", c.PostgresURL, c.Source)
	}
	if c, err = LoadEnvironment(); err != nil || c.PostgresURL != "" {
		t.Errorf("LoadEnvironment read perdure.env: %q, %v", c.PostgresURL, err)
	}
	t.Setenv("PERDURE_REDIS_ADDRS", "127.0.0.1:6379")
	if c, err = Load(); err != nil || c.PostgresURL != "" {
		t.Errorf("perdure.env was read although a server is named: %q, %v", c.PostgresURL, err)
	}
}

func TestBrokenEnvFileIsAnError(t *testing.T) {
	home := clean(t)
	dir := filepath.Join(home, "perdure")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(EnvFile(dir), []byte("# ok\nnonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(); err == nil || !strings.Contains(err.Error(), "perdure.env:2") {
		t.Errorf("got %v", err)
	}
}

func TestDescribeMasksSecrets(t *testing.T) {
	clean(t)
	t.Setenv("PERDURE_POSTGRES_URL", "postgres://u:hunter2@h/db?sslpassword=hunter2")
	t.Setenv("PERDURE_POSTGRES_DIRECT_URL", "host=h password=hunter2")
	t.Setenv("PERDURE_REDIS_PASSWORD", "hunter2")
	t.Setenv("PERDURE_API_TOKEN", "hunter2")
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, v := range c.Describe() {
		if strings.Contains(v.Value, "hunter2") {
			t.Errorf("%s shows a secret: %s", v.Name, v.Value)
		}
		if strings.Contains(v.Value, "***") {
			seen++
		}
		if v.Meaning == "" || !strings.HasPrefix(v.Name, "PERDURE_") {
			t.Errorf("%+v has no meaning or no prefix", v)
		}
	}
	if seen != 4 {
		t.Errorf("%d masked values, want 4", seen)
	}
}

func TestUnknownVariablesGetAHint(t *testing.T) {
	clean(t)
	t.Setenv("PERDURE_KAFKA_BROKER", "x:1")
	t.Setenv("PERDURE_TEST_KAFKA", "x:1")
	t.Setenv("PERDURE_API_TOKEN_FILE", "/x")
	got := Unknown()
	if len(got) != 1 || !strings.Contains(got[0], "did you mean PERDURE_KAFKA_BROKERS?") {
		t.Errorf("got %q", got)
	}
}

func TestSlotsAreNeverShared(t *testing.T) {
	clean(t)
	c, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	take := func() *Instance {
		t.Helper()
		i, err := c.TakeInstance("worker")
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	a, b := take(), take()
	if a.Name == b.Name || !strings.HasSuffix(a.Name, "-worker-0") || !strings.HasSuffix(b.Name, "-worker-1") {
		t.Fatalf("%q and %q", a.Name, b.Name)
	}
	name := a.Name
	if err := a.Release(); err != nil {
		t.Fatal(err)
	}
	if again := take(); again.Name != name {
		t.Errorf("free slot not taken again: %q, want %q", again.Name, name)
	}
	c.DataDir = ""
	if _, err := c.TakeInstance("worker"); err == nil {
		t.Error("a name without a slot")
	}
	c.Instance = "given"
	if i, err := c.TakeInstance("worker"); err != nil || i.Name != "given" {
		t.Errorf("given name: %v, %v", i, err)
	}
}
