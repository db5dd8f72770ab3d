package request

import (
	"errors"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

const (
	defaultListing = 500
	// MaxListing is the greatest number of nodes that a listing reaches,
	// those that it leaves out included.
	MaxListing = 10000
)

// Listing asks for a part of the network.
type Listing struct {
	// Start is how many nodes to leave out, 0 or more.
	Start int
	// Limit is the greatest number of nodes, 1 to MaxListing.
	Limit int
	// URLs limits it to tasks of these; none means all.
	URLs []string
}

// NewListing checks what to list.
func NewListing(in *dfgetv1.FetchNetworkRequest) (Listing, error) {
	if in.GetStart() < 0 {
		return Listing{}, rpcerr.Invalid("start %d is negative", in.GetStart())
	}
	l := Listing{Start: int(in.GetStart()), Limit: int(in.GetLimit()), URLs: in.GetFilter().GetUrls()}
	switch {
	case l.Limit == 0:
		l.Limit = defaultListing
	case l.Limit < 0, l.Limit > MaxListing:
		l.Limit = MaxListing
	}
	var err error
	for _, u := range l.URLs {
		err = errors.Join(err, checkText("urls", u, maxURL))
	}
	return l, err
}
