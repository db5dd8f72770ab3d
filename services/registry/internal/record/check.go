package record

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// ErrInvalid is returned, wrapped, for a value that must not be stored.
var ErrInvalid = errors.New("invalid")

// The maximum lengths of the texts in a record, in bytes. They limit what one request
// can add to the store.
const (
	maxID   = 255
	maxText = 255
	// maxURL is also the limit of the gateway.
	maxURL       = 32 << 10
	maxValidator = 16 << 10
)

// CheckID returns an error unless id is a valid member id: 1 to 255 characters of
// [A-Za-z0-9.:_-]. Ids are parts of store keys.
func CheckID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, isInvalidInID) {
		return fmt.Errorf("member id %.80q: %w", id, ErrInvalid)
	}
	return nil
}

func isInvalidInID(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune(".:_-", r)
}

// CheckRole returns an error unless r is one of Roles.
func CheckRole(r Role) error {
	if !slices.Contains(Roles(), r) {
		return fmt.Errorf("role %.80q: %w", string(r), ErrInvalid)
	}
	return nil
}

// CheckEndpoint returns an error unless endpoint is a host:port with a port from 1 to
// 65535.
func CheckEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || len(endpoint) > maxText || !isPrintable(endpoint) || strings.ContainsAny(host, " /") {
		return fmt.Errorf("endpoint %.80q is not a host:port: %w", endpoint, ErrInvalid)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port of endpoint %.80q: %w", endpoint, ErrInvalid)
	}
	return nil
}

// Check returns an error if a field of the member is invalid, or if the address of
// its downloads is missing.
func (m Member) Check() error {
	if err := errors.Join(CheckRole(m.Role), CheckID(m.ID), CheckEndpoint(m.Endpoint)); err != nil {
		return err
	}
	if m.State != StateReady && m.State != StateDraining {
		return fmt.Errorf("state %.80q: %w", string(m.State), ErrInvalid)
	}
	if m.Capacity < 0 {
		return fmt.Errorf("capacity %d: %w", m.Capacity, ErrInvalid)
	}
	for _, text := range []string{m.Zone, m.Version, m.DownloadIP} {
		if len(text) > maxText || !isPrintable(text) {
			return fmt.Errorf("text %.80q: %w", text, ErrInvalid)
		}
	}
	if m.Role == RoleCDN {
		return m.checkDownload()
	}
	return nil
}

// checkDownload returns an error unless the download address is an IPv4 address with
// a port: dfget supports only IPv4.
func (m Member) checkDownload() error {
	if ip, err := netip.ParseAddr(m.DownloadIP); err != nil || !ip.Is4() {
		return fmt.Errorf("download address %.80q is not an IPv4 address: %w", m.DownloadIP, ErrInvalid)
	}
	if m.DownloadPort < 1 || m.DownloadPort > 65535 {
		return fmt.Errorf("download port %d: %w", m.DownloadPort, ErrInvalid)
	}
	return nil
}

// Check returns an error unless the source can be the result of a response: its
// length is at least -1, and its validators fit into headers.
func (s Source) Check() error {
	if s.Length < -1 {
		return fmt.Errorf("source length %d: %w", s.Length, ErrInvalid)
	}
	for _, text := range []string{s.ETag, s.LastModified} {
		if len(text) > maxValidator || !utf8.ValidString(text) {
			return fmt.Errorf("source validator %.80q: %w", text, ErrInvalid)
		}
	}
	return nil
}

// StripURL returns raw without user, password and fragment. It returns an error if
// raw is not an absolute URL. All other bytes are kept as they are: encoding the
// parsed URL again could change its escapes and thereby invalidate a signature in it.
// The errors do not contain the URL, because it may contain a password.
func StripURL(raw string) (string, error) {
	if len(raw) > maxURL {
		return "", fmt.Errorf("url of %d bytes: %w", len(raw), ErrInvalid)
	}
	parsed, err := url.Parse(raw)
	if err != nil || parsed.Scheme == "" || parsed.Host == "" || !utf8.ValidString(raw) {
		return "", fmt.Errorf("url: %w", ErrInvalid)
	}
	stripped, _, _ := strings.Cut(raw, "#")
	scheme, rest, _ := strings.Cut(stripped, "://")
	end := strings.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host := rest[:end]
	host = host[strings.LastIndexByte(host, '@')+1:]
	return scheme + "://" + host + rest[end:], nil
}

// isPrintable reports whether text is valid UTF-8 without control characters. Such a
// text can be written to logs and terminals.
func isPrintable(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

const (
	// maxReplicas is the maximum number of replicas in a record that a caller sends. Real
	// records have far fewer.
	maxReplicas = 1000
	// maxEpoch is the maximum epoch in a record that a caller sends. It is far below the
	// maximum of an int64, so that the epoch can still grow.
	maxEpoch = 1 << 52
)

// CheckEpoch returns an error unless epoch is from 0 to maxEpoch.
func CheckEpoch(epoch int64) error {
	if epoch < 0 || epoch > maxEpoch {
		return fmt.Errorf("epoch %d: %w", epoch, ErrInvalid)
	}
	return nil
}

// CheckPieceSize returns an error if size is negative. 0 means unknown.
func CheckPieceSize(size int32) error {
	if size < 0 {
		return fmt.Errorf("piece size %d: %w", size, ErrInvalid)
	}
	return nil
}

// Check returns an error if a field of the record, which a caller has sent, is
// invalid. A record that passes can be stored again.
func (t Task) Check() error {
	if err := errors.Join(CheckID(t.Owner), CheckEpoch(t.Epoch), CheckPieceSize(t.PieceSize)); err != nil {
		return err
	}
	if len(t.Replicas) > maxReplicas {
		return fmt.Errorf("%d replicas: %w", len(t.Replicas), ErrInvalid)
	}
	seen := map[string]bool{t.Owner: true}
	for _, id := range t.Replicas {
		if err := CheckID(id); err != nil {
			return err
		}
		if seen[id] {
			return fmt.Errorf("member %.80q is named twice: %w", id, ErrInvalid)
		}
		seen[id] = true
	}
	if err := CheckID(t.Scheduler); t.Scheduler != "" && err != nil {
		return err
	}
	if t.Source != nil {
		return t.Source.Check()
	}
	return nil
}
