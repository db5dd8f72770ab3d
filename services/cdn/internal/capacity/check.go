package capacity

import (
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// check returns an error if a request names no scheduler, or another one than the first
// request of the stream. id is the one of the first request, empty if this is the
// first. Invalid numbers cause no error but are clamped: an error would end the
// stream, and the scheduler would lose its window.
func check(req *cdnv1.ShareCapacityRequest, id string) error {
	got := req.GetSchedulerId()
	switch {
	case got == "" || len(got) > maxID:
		return rpcerr.Invalid("the scheduler's id is empty or longer than %d bytes", maxID)
	case id != "" && got != id:
		return rpcerr.Invalid("the stream belongs to scheduler %.80q, not to %.80q", id, got)
	}
	return nil
}

// ignoreEOF returns nil for io.EOF, which is the regular end of the requests.
func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func errStopping() error { return rpcerr.New(codes.Unavailable, "", "the instance is stopping") }
