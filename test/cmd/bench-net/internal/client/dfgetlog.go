package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// noUploads is what a dfget logs that could not start an upload server.
	noUploads = "change to CDN pattern"
	// pieceDone is what it logs of every piece that it is done with, before the
	// piece as JSON, and arrived and failed is what that says.
	pieceDone = "downloading piece:"
	arrived   = `"result":503`
	failed    = `"result":500`

	logTime = "2006-01-02 15:04:05.000"
)

// readLog reads what a dfget logged in its home into an outcome.
func (o *Outcome) readLog(home string) error {
	log, err := os.ReadFile(filepath.Join(home, "logs", "dfclient.log"))
	if err != nil {
		return fmt.Errorf("reading what dfget logged: %w", err)
	}
	return o.parseLog(log)
}

func (o *Outcome) parseLog(log []byte) error {
	o.FailedPieces = 0
	for line := range bytes.Lines(log) {
		text := string(line)
		switch {
		case strings.Contains(text, noUploads):
			o.NoUploads = true
		case !strings.Contains(text, pieceDone):
		case strings.Contains(text, failed):
			o.FailedPieces++
		case strings.Contains(text, arrived):
			if len(text) < len(logTime) {
				return fmt.Errorf("reading what dfget logged: %q has no time", text)
			}
			at, err := time.ParseInLocation(logTime, text[:len(logTime)], time.Local)
			if err != nil {
				return fmt.Errorf("reading what dfget logged: %w", err)
			}
			if o.First.IsZero() {
				o.First = at
			}
			o.Last = at
		}
	}
	return nil
}
