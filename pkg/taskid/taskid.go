// Package taskid names tasks. The name is a hash of what tells one task from
// another, the same that Dragonfly v1 makes, so that a cache directory it
// filled stays valid. Nothing here knows what a task is used for.
package taskid

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/textproto"
	"strings"
)

// ErrInvalid is a string that is no task id.
var ErrInvalid = errors.New("not a task id")

// salt is Dragonfly v1's, put before and behind what is hashed.
const salt = ">I$pg-~AS~sP'rqu_`Oh&lz#9]\"=;nE%"

// Compute names the task of a URL (without what the client filters from it),
// told apart by md5, or else by identifier, and by the Range header, if
// there is one among headers ("Name: value" each).
func Compute(taskURL, md5, identifier string, headers []string) string {
	var s strings.Builder
	s.WriteString(salt)
	s.WriteString(taskURL)
	if md5 != "" {
		s.WriteString(md5)
	} else {
		s.WriteString(identifier)
	}
	s.WriteString(rangeOf(headers))
	s.WriteString(salt)
	sum := sha256.Sum256([]byte(s.String()))
	return hex.EncodeToString(sum[:])
}

// rangeOf gives the value of the Range header. Dragonfly v1 only knew it in
// this very spelling; in any other it made one task of different contents, so
// that is not kept.
func rangeOf(headers []string) string {
	var values []string
	for _, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		value = strings.TrimSpace(value)
		if ok && value != "" && textproto.CanonicalMIMEHeaderKey(strings.TrimSpace(name)) == "Range" {
			values = append(values, value)
		}
	}
	return strings.Join(values, ",")
}

// Check accepts what Compute can give, 64 lower-case hex digits, and answers
// ErrInvalid for all else. Ids become file names and store keys, so nothing
// may come in that has not been checked.
func Check(id string) error {
	if len(id) != 2*sha256.Size || strings.Trim(id, "0123456789abcdef") != "" {
		return fmt.Errorf("%.80q: %w", id, ErrInvalid)
	}
	return nil
}
