package main

// What commands that talk to the API share.

import (
	"bytes"
	"encoding/json"

	"github.com/perdure/perdure/internal/apiclient"
)

// api is a client for PERDURE_API_URL.
func (c *cli) api() (*apiclient.Client, error) {
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	return apiclient.New(cfg)
}

// indented is JSON for reading; what is none stays as it is.
func indented(raw json.RawMessage) string {
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "  ", "  "); err != nil {
		return string(raw)
	}
	return "  " + b.String()
}
