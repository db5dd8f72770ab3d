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

// ErrInvalid is a value that may not be stored.
var ErrInvalid = errors.New("not acceptable")

// Bounds of what one record may hold, so that no request can bloat the store.
const (
	maxID   = 255
	maxText = 255
	// maxURL is what the gateway lets clients ask for.
	maxURL       = 32 << 10
	maxValidator = 16 << 10
)

// CheckID accepts member ids: 1 to 255 characters of [A-Za-z0-9.:_-]. Ids are
// parts of store keys, so nothing may come in that has not been checked.
func CheckID(id string) error {
	if id == "" || len(id) > maxID || strings.ContainsFunc(id, notOfID) {
		return fmt.Errorf("member id %.80q: %w", id, ErrInvalid)
	}
	return nil
}

func notOfID(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune(".:_-", r)
}

// CheckRole accepts the known roles.
func CheckRole(r Role) error {
	if !slices.Contains(Roles(), r) {
		return fmt.Errorf("role %.80q: %w", string(r), ErrInvalid)
	}
	return nil
}

// CheckEndpoint accepts host:port with a port from 1 to 65535.
func CheckEndpoint(endpoint string) error {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil || host == "" || len(endpoint) > maxText || !clean(endpoint) || strings.ContainsAny(host, " /") {
		return fmt.Errorf("endpoint %.80q is no host:port: %w", endpoint, ErrInvalid)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("port of endpoint %.80q: %w", endpoint, ErrInvalid)
	}
	return nil
}

// Check accepts a member that others can use.
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
		if len(text) > maxText || !clean(text) {
			return fmt.Errorf("text %.80q: %w", text, ErrInvalid)
		}
	}
	if m.Role == RoleCDN {
		return m.checkDownload()
	}
	return nil
}

// checkDownload demands what dfget can dial: it speaks IPv4 only.
func (m Member) checkDownload() error {
	if ip, err := netip.ParseAddr(m.DownloadIP); err != nil || !ip.Is4() {
		return fmt.Errorf("download address %.80q is no IPv4 address: %w", m.DownloadIP, ErrInvalid)
	}
	if m.DownloadPort < 1 || m.DownloadPort > 65535 {
		return fmt.Errorf("download port %d: %w", m.DownloadPort, ErrInvalid)
	}
	return nil
}

// Check accepts a source identity that headers can have brought.
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

// StripURL gives raw without user, password and fragment, and refuses what is
// no absolute URL. Everything else is kept byte by byte, because writing a
// parsed URL again can change its escapes, and with them its signature. The
// errors never repeat the URL, which may hold a password.
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

// clean tells whether text is valid UTF-8 without control characters, so that
// it can go into logs and terminals as it is.
func clean(text string) bool {
	return utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f })
}

const (
	// maxReplicas is far above what any record has.
	maxReplicas = 1000
	// maxEpoch leaves room for every takeover there will ever be.
	maxEpoch = 1 << 52
)

// CheckEpoch accepts epochs that a record may have had.
func CheckEpoch(epoch int64) error {
	if epoch < 0 || epoch > maxEpoch {
		return fmt.Errorf("epoch %d: %w", epoch, ErrInvalid)
	}
	return nil
}

// CheckPieceSize accepts a size, or 0 for one that is not known.
func CheckPieceSize(size int32) error {
	if size < 0 {
		return fmt.Errorf("piece size %d: %w", size, ErrInvalid)
	}
	return nil
}

// Check accepts a record that somebody remembers, so that it may be stored again.
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
