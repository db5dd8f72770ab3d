package cluster

import "context"

// Scope is what processes are started in and end with: a test, which is a Scope
// as it stands, or a command that plays one.
type Scope interface {
	// Name says whose the processes are, Context ends before they do.
	Name() string
	Context() context.Context
	// Cleanup has something done at the end, the latest first.
	Cleanup(end func())
	// TempDir makes a directory that is there until the end.
	TempDir() string

	// Fatalf fails and ends the goroutine that calls it, Errorf fails and goes on.
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
	Failed() bool
	// Helper marks the caller as one whose line says nothing.
	Helper()
}
