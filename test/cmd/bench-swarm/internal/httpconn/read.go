package httpconn

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// maxBody in bytes bounds an answer.
const maxBody = 1 << 20

var errFormat = errors.New("not an answer of HTTP/1.1")

// head is what matters of an answer's head.
type head struct {
	status  int
	length  int // of the body, -1 if it is not given
	chunked bool
	kept    bool // the connection may be used again
}

// read reads an answer; its body is in c.body then.
func (c *Conn) read() (status int, kept bool, err error) {
	h, err := c.readHead()
	if err != nil {
		return 0, false, err
	}
	c.body = c.body[:0]
	switch {
	case h.chunked:
		err = c.readChunks()
	case h.length >= 0:
		err = c.readBody(h.length)
	default:
		err = fmt.Errorf("%w: it has no length", errFormat)
	}
	return h.status, h.kept, err
}

func (c *Conn) readHead() (head, error) {
	const version, status = len("HTTP/1.1"), len("HTTP/1.1 200")
	line, err := c.line()
	if err != nil {
		return head{}, err
	}
	if len(line) < status || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return head{}, fmt.Errorf("%w: %.40q", errFormat, line)
	}
	h := head{length: -1, kept: line[version-1] == '1'}
	if h.status, err = strconv.Atoi(string(line[version+1 : status])); err != nil {
		return head{}, fmt.Errorf("%w: %.40q", errFormat, line)
	}
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return h, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		if err := h.set(string(name), string(bytes.TrimSpace(value))); err != nil {
			return head{}, err
		}
	}
}

func (h *head) set(name, value string) error {
	var err error
	switch {
	case strings.EqualFold(name, "Content-Length"):
		h.length, err = strconv.Atoi(value)
	case strings.EqualFold(name, "Transfer-Encoding"):
		h.chunked = strings.EqualFold(value, "chunked")
	case strings.EqualFold(name, "Connection"):
		h.kept = h.kept && !strings.EqualFold(value, "close")
	}
	if err != nil || h.length > maxBody {
		return fmt.Errorf("%w: a body of %.40q bytes", errFormat, value)
	}
	return nil
}

// readBody appends n bytes to the body.
func (c *Conn) readBody(n int) error {
	was := len(c.body)
	if was+n > maxBody {
		return fmt.Errorf("%w: a body of more than %d bytes", errFormat, maxBody)
	}
	c.body = slices.Grow(c.body, n)[:was+n]
	_, err := io.ReadFull(c.in, c.body[was:])
	return err
}

func (c *Conn) readChunks() error {
	for {
		line, err := c.line()
		if err != nil {
			return err
		}
		digits, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(digits), 16, 31)
		if err != nil {
			return fmt.Errorf("%w: a chunk of %.40q bytes", errFormat, line)
		}
		if n == 0 {
			return c.skipTrailer()
		}
		if err := c.readBody(int(n)); err != nil {
			return err
		}
		if line, err = c.line(); err != nil {
			return err
		}
		if len(line) > 0 {
			return fmt.Errorf("%w: %.40q behind a chunk", errFormat, line)
		}
	}
}

func (c *Conn) skipTrailer() error {
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return err
		}
	}
}

// line returns the next line without its end. It is valid until the next read.
func (c *Conn) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return nil, fmt.Errorf("reading a line: %w", err)
	}
	return bytes.TrimRight(line, "\r\n"), nil
}
