// Package enqueuefile sends a file of tasks, one JSON object a line, to the API:
// what `perdure enqueue -f` does.
//
// It reads as a stream, so that memory does not follow the file: one request's
// lines, and 20 to 40 bytes for each line that was read. Every line gets an
// idempotency key made from the batch (the file's absolute path), the line's
// text, and how often that text was seen before in the file. So
//
//   - the same file again, also after an interruption, enqueues nothing twice;
//   - a line that was edited is a new task, whatever lines were added or removed
//     around it;
//   - two equal lines are two tasks;
//   - a line's own idempotency_key wins.
//
// Keys are kept for 168 h. Refused lines go to the rejects with their number and
// text, and the rest goes on. It keeps I1 by counting a line as accepted only when the API
// said so.
package enqueuefile
