package claims

// The scripts: text in lua/, each begun by prelude.lua (raise.lua and gate.lua excepted).

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed lua/*.lua
var luaFiles embed.FS

var (
	claimScript    = load("claim", true)
	doneScript     = load("done", true)
	waitScript     = load("wait", true)
	deadScript     = load("dead", true)
	handBackScript = load("handback", true)
	releaseScript  = load("release", true)
	settledScript  = load("settled", true)
	cancelScript   = load("cancel", true)
	beatScript     = load("beat", true)
	buryScript     = load("bury", true)
	reassertScript = load("reassert", true)
	raiseScript    = load("raise", false)
	gateScript     = load("gate", false)
)

// load reads an embedded file, which is there by construction.
func load(name string, prelude bool) *redis.Script {
	src, err := luaFiles.ReadFile("lua/" + name + ".lua")
	if err != nil {
		panic("claims: " + err.Error())
	}
	if prelude {
		head, err := luaFiles.ReadFile("lua/prelude.lua")
		if err != nil {
			panic("claims: " + err.Error())
		}
		src = append(head, src...)
	}
	return redis.NewScript(string(src))
}
