package request

import (
	"crypto/x509"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/net/http/httpguts"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// Limits in bytes. They limit how much one client can make the cluster store.
const (
	maxID   = 255
	maxURL  = 32 << 10
	maxPath = 4096
	maxText = 1024
)

// The range of ports that dfget's upload server uses.
const (
	minPort = 15000
	maxPort = 65000
)

func checkTaskID(id string) (TaskID, error) {
	if id == "" {
		return "", rpcerr.Invalid("taskId is required")
	}
	if err := taskid.Check(id); err != nil {
		return "", rpcerr.Invalid("taskId: %v", err)
	}
	return TaskID(id), nil
}

func checkPeerID(name, id string) (PeerID, error) {
	switch {
	case id == "":
		return "", rpcerr.Invalid("%s is required", name)
	case len(id) > maxID:
		return "", rpcerr.Invalid("%s is longer than %d characters", name, maxID)
	case strings.Contains(id, "/"), strings.Contains(id, ".."), strings.ContainsFunc(id, isBlank):
		return "", rpcerr.Invalid("%s %.80q must not have slashes, double dots, spaces or control characters", name, id)
	}
	return PeerID(id), nil
}

func checkOptionalPeerID(name, id string) (PeerID, error) {
	if id == "" {
		return "", nil
	}
	return checkPeerID(name, id)
}

func checkIP(name, text string) (string, error) {
	ip, err := netip.ParseAddr(text)
	if err != nil || !ip.Is4() {
		return "", rpcerr.Invalid("%s %.80q is not an IPv4 address", name, text)
	}
	if ip.IsUnspecified() || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return "", rpcerr.Invalid("%s %s is not the address of one machine", name, ip)
	}
	return ip.String(), nil
}

func checkUploadPort(port int32) error {
	if port != 0 && (port < minPort || port > maxPort) {
		return rpcerr.Invalid("port %d is not between %d and %d", port, minPort, maxPort)
	}
	return nil
}

func checkURL(name, text string) error {
	if len(text) > maxURL {
		return rpcerr.Invalid("%s is longer than %d bytes", name, maxURL)
	}
	// The error of url.Parse repeats the URL, which may carry credentials.
	u, err := url.Parse(text)
	if err != nil {
		return rpcerr.Invalid("%s is not a URL", name)
	}
	if scheme := strings.ToLower(u.Scheme); scheme != "http" && scheme != "https" {
		return rpcerr.Invalid("%s is neither http nor https", name)
	}
	if u.Hostname() == "" {
		return rpcerr.Invalid("%s names no host", name)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return rpcerr.Invalid("%s has no valid port", name)
		}
	}
	return nil
}

// checkPath accepts names that contain two dots, such as "a..b", but no ".."
// component.
func checkPath(path string) error {
	switch {
	case path == "":
		return nil
	case len(path) > maxPath:
		return rpcerr.Invalid("path is longer than %d bytes", maxPath)
	case path[0] != '/':
		return rpcerr.Invalid("path %.80q does not start with a slash", path)
	case slices.Contains(strings.FieldsFunc(path, isSlash), ".."):
		return rpcerr.Invalid("path %.80q must not lead upwards", path)
	}
	return checkText("path", path, maxPath)
}

// checkMD5 accepts lower-case digits only. dfget compares the MD5 from its command
// line with a lower-case one after the download, and if they differ it reports
// success but leaves no file.
func checkMD5(name, text string) error {
	switch {
	case text == "", piece.IsMD5(text):
		return nil
	case piece.IsMD5(strings.ToLower(text)):
		return rpcerr.Invalid("%s has capital letters, with which no client accepts the file", name)
	}
	return rpcerr.Invalid("%s is not an MD5 in hex", name)
}

// checkHeaders returns the headers as "Name: value". It leaves out headers without
// a value or a colon, as the original server did not send them to the source
// either. An error does not contain the value of a header, which may be a
// credential.
func checkHeaders(headers []string) ([]string, error) {
	var clean []string
	ranges := 0
	for i, h := range headers {
		name, value, ok := strings.Cut(h, ":")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok:
			continue
		case !httpguts.ValidHeaderFieldName(name), !httpguts.ValidHeaderFieldValue(value):
			return nil, rpcerr.Invalid("headers[%d] is not of the form \"Name: value\"", i)
		case value == "":
			continue
		case strings.EqualFold(name, "Host") && !httpguts.ValidHostHeader(value):
			return nil, rpcerr.Invalid("headers[%d] names no host", i)
		case strings.EqualFold(name, "Range"):
			ranges++
		}
		clean = append(clean, name+": "+value)
	}
	if ranges > 1 {
		return nil, rpcerr.Invalid("headers have more than one Range")
	}
	return clean, nil
}

// checkRootCAs rejects certificates that a CDN could not use, so that no task is
// created for a source that cannot be fetched.
func checkRootCAs(certificates [][]byte) error {
	for i, c := range certificates {
		if !x509.NewCertPool().AppendCertsFromPEM(c) {
			return rpcerr.Invalid("rootCAs[%d] holds no PEM certificate", i)
		}
	}
	return nil
}

func checkPiece(name, text string) (Piece, error) {
	if text == "" {
		return Piece{}, rpcerr.Invalid("%s is required", name)
	}
	num, size, err := piece.ParseRange(text)
	if err != nil {
		return Piece{}, rpcerr.Invalid("%s: %v", name, err)
	}
	return Piece{Num: num, Size: size}, nil
}

func checkOptionalPiece(name, text string) (*Piece, error) {
	if text == "" {
		return nil, nil
	}
	p, err := checkPiece(name, text)
	if err != nil {
		return nil, err
	}
	return &p, nil
}

// checkText checks a text that is only stored and displayed.
func checkText(name, text string, limit int) error {
	if len(text) > limit {
		return rpcerr.Invalid("%s is longer than %d bytes", name, limit)
	}
	if strings.ContainsFunc(text, unicode.IsControl) {
		return rpcerr.Invalid("%s must not have control characters", name)
	}
	return nil
}

func isBlank(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }

func isSlash(r rune) bool { return r == '/' || r == '\\' }
