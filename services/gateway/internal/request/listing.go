package request

import (
	"errors"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

const (
	// defaultListing is the limit of a request without one.
	defaultListing = 500
	// MaxListing is the maximum number of nodes in a listing.
	MaxListing = 10_000
	// MaxSkipped is the maximum number of nodes of which a listing is a part. Those
	// beyond are never listed.
	MaxSkipped = 100_000
)

// Listing is a request to list a part of the network.
type Listing struct {
	// Start is the number of nodes to skip, 0 or more.
	Start int
	// Limit is the maximum number of nodes to return, 1 to MaxListing.
	Limit int
	// URLs restricts the listing to the tasks of these URLs; empty means all tasks.
	URLs []string
}

// NewListing validates the request for a listing.
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
