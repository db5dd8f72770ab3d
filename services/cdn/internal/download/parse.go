package download

import (
	"errors"
	"math"
	"strconv"
	"strings"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// parsePath parses /download/<first 3 characters of id>/<id>. It returns false for any
// other path.
func parsePath(path string) (task.ID, bool) {
	rest, ok := strings.CutPrefix(path, "/download/")
	if !ok {
		return "", false
	}
	prefix, name, ok := strings.Cut(rest, "/")
	if !ok {
		return "", false
	}
	id, err := task.ParseID(name)
	if err != nil || prefix != name[:3] {
		return "", false
	}
	return id, true
}

// errRange is returned for a range that cannot be served.
var errRange = errors.New("not a range that can be served")

// toEnd stands for the last byte of a range that has none.
const toEnd = math.MaxInt64

// parseRange parses "bytes=first-last" or "bytes=first-". It returns errRange for
// lists of ranges and for ranges from the end, which peers do not request.
func parseRange(header string) (first, last int64, err error) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok {
		return 0, 0, errRange
	}
	firstText, lastText, ok := strings.Cut(spec, "-")
	if !ok {
		return 0, 0, errRange
	}
	start, err := strconv.ParseUint(firstText, 10, 63)
	if err != nil {
		return 0, 0, errRange
	}
	if lastText == "" {
		return int64(start), toEnd, nil
	}
	end, err := strconv.ParseUint(lastText, 10, 63)
	if err != nil || end < start {
		return 0, 0, errRange
	}
	return int64(start), int64(end), nil
}
