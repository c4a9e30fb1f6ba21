// Package webhook is what every HTTP call that carries a task has in common: a
// transport that never reaches link-local and metadata addresses, and Standard
// Webhooks signatures. It knows no kinds and judges no answers.
package webhook
