package api

// Where the API may be served without tokens: on this machine only.

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// CheckListenAddr returns an error where addr may not serve /v1: without
// tokens it must be a loopback address. A process that gets it exits 2.
func CheckListenAddr(addr string, tokens *Tokens) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("PERDURE_HTTP_ADDR: %w: want host:port, as in 127.0.0.1:8080", err)
	}
	if tokens != nil || loopback(host) {
		return nil
	}
	return fmt.Errorf("PERDURE_HTTP_ADDR=%s would serve the API to the network without tokens: set PERDURE_API_TOKENS_FILE, or listen on 127.0.0.1", addr)
}

func loopback(host string) bool {
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// guardLocal protects an API without tokens from web pages that the machine's
// user has open: by DNS rebinding (the Host is then a foreign name) and by
// cross-origin posts.
func guardLocal(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if !loopback(host) {
			WriteProblem(w, NewProblem(http.StatusMisdirectedRequest, "bad-host", "without API tokens only requests to localhost or a loopback address are answered").
				WithNext("call the API by http://127.0.0.1, or set PERDURE_API_TOKENS_FILE"))
			return
		}
		if err := cross.Check(r); err != nil {
			WriteProblem(w, NewProblem(http.StatusForbidden, "cross-origin", "a web page of another origin may not call an API without tokens").
				WithNext("call it from a program, or set PERDURE_API_TOKENS_FILE"))
			return
		}
		next.ServeHTTP(w, r)
	})
}
