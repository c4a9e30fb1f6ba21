// Package httpexec runs a kind by posting its payload to a URL: the executor
// for handlers in any language.
//
// One Executor serves one kind. Connections are kept and shared by all kinds
// through the transport made by webhook.NewTransport, which never connects to
// link-local and metadata addresses, whatever a name resolves to, and never
// follows a redirect. What an answer means stands in one table, in
// response.go. It keeps no state about tasks; its share of I2 is the fence
// that it sends, and that an effect that may have happened is never called
// failed where the kind says effects: once.
package httpexec
