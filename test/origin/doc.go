// Package origin is a source of files that tests and benchmarks control: an
// HTTP or HTTPS server on a loopback address whose files can be slow, stall,
// break off, change, demand credentials or hide their length, and which counts
// what it was asked for and what it sent. It knows nothing of pieces, tasks or
// peers.
package origin
