package wire

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// errJSON is returned for an answer that is not the JSON that was expected.
var errJSON = errors.New("not the expected JSON")

// maxDepth bounds the values inside of values that are skipped.
const maxDepth = 32

// scanner reads JSON from a buffer without copying it. It accepts everything that
// is valid, and some of what is not.
type scanner struct {
	data []byte
	at   int
}

func (s *scanner) fail(want string) error {
	return fmt.Errorf("%w: %s wanted at byte %d of %.200q", errJSON, want, s.at, s.data)
}

// next returns the first byte of the next token, 0 at the end.
func (s *scanner) next() byte {
	for ; s.at < len(s.data); s.at++ {
		switch c := s.data[s.at]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}

// accept consumes a byte if it is the next one.
func (s *scanner) accept(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// object calls member for each member with the scanner at the value, which member
// must consume.
func (s *scanner) object(member func(name []byte) error) error {
	if !s.accept('{') {
		return s.fail("an object")
	}
	for first := true; !s.accept('}'); first = false {
		if !first && !s.accept(',') {
			return s.fail("a comma")
		}
		name, err := s.text()
		if err != nil {
			return err
		}
		if !s.accept(':') {
			return s.fail("a colon")
		}
		if err := member(name); err != nil {
			return err
		}
	}
	return nil
}

// array calls element for each element with the scanner at it.
func (s *scanner) array(element func() error) error {
	if !s.accept('[') {
		return s.fail("an array")
	}
	for first := true; !s.accept(']'); first = false {
		if !first && !s.accept(',') {
			return s.fail("a comma")
		}
		if err := element(); err != nil {
			return err
		}
	}
	return nil
}

// text returns what is between the quotes of a string, escapes as they stand.
func (s *scanner) text() ([]byte, error) {
	if !s.accept('"') {
		return nil, s.fail("a string")
	}
	for first := s.at; s.at < len(s.data); s.at++ {
		switch s.data[s.at] {
		case '\\':
			s.at++
		case '"':
			s.at++
			return s.data[first : s.at-1], nil
		}
	}
	s.at = len(s.data) // not behind the end, where an escape may have led
	return nil, s.fail("the end of a string")
}

func (s *scanner) integer() (int64, error) {
	s.next()
	first := s.at
	for s.at < len(s.data) && (s.data[s.at] == '-' || s.data[s.at] >= '0' && s.data[s.at] <= '9') {
		s.at++
	}
	n, err := strconv.ParseInt(string(s.data[first:s.at]), 10, 64)
	if err != nil {
		return 0, s.fail("a whole number")
	}
	return n, nil
}

// skip passes over a value.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.fail("less depth")
	}
	switch s.next() {
	case '"':
		_, err := s.text()
		return err
	case '{':
		return s.object(func([]byte) error { return s.skip(depth + 1) })
	case '[':
		return s.array(func() error { return s.skip(depth + 1) })
	}
	n := bytes.IndexAny(s.data[s.at:], ",]} \t\r\n")
	if n <= 0 {
		return s.fail("a value")
	}
	s.at += n
	return nil
}
