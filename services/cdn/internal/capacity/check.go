package capacity

import (
	"errors"
	"io"

	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// check refuses a request that names no scheduler, or another one than the
// stream's first request. Wrong numbers are clamped instead: an error would
// take the scheduler's window away.
func check(req *cdnv1.ShareCapacityRequest, id string) error {
	got := req.GetSchedulerId()
	switch {
	case got == "" || len(got) > maxID:
		return rpcerr.Invalid("the scheduler's id is empty or longer than %d bytes", maxID)
	case id != "" && got != id:
		return rpcerr.Invalid("the stream is of scheduler %.80q, not of %.80q", id, got)
	}
	return nil
}

// ended turns the regular end of a stream's requests into no error.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func errStopping() error { return rpcerr.New(codes.Unavailable, "", "the instance is stopping") }
