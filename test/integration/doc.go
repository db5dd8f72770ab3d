// Package integration tests services together, each real and in this process,
// over loopback sockets. What a whole cluster of processes does, and what dfget
// sees of it, is tested elsewhere.
package integration
