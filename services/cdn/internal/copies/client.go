// Package copies reads the copies of a task that other CDNs have: the list of their
// pieces over gRPC, and the pieces themselves from their download ports. Package fetch
// chooses the CDNs and stores the pieces.
//
// Invariants:
//
//   - An error of another CDN has no gRPC status and no reason here: the state of
//     another instance says nothing about this one.
//   - A call ends if the other CDN sends nothing for the time limit of Deps that
//     applies to it. Only Follow waits as long as its context permits.
package copies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// connectTimeout limits the time to open a connection to a download port.
const connectTimeout = 3 * time.Second

// Deps holds the dependencies and the time limits of a client.
type Deps struct {
	// Member returns the CDN with the given id.
	Member func(id string) (cluster.Member, bool)
	// Dial returns a connection to a gRPC endpoint.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
	// Timeout is the maximum time between two reads from a download port.
	Timeout time.Duration
	// AnswerTimeout is the maximum time between two messages of List.
	AnswerTimeout time.Duration
}

// Client reads copies of other CDNs. It is safe for concurrent use.
type Client struct {
	deps Deps
	http *http.Transport
}

// New returns a client. The caller closes it.
func New(deps Deps) *Client {
	return &Client{deps: deps, http: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		ResponseHeaderTimeout: deps.Timeout,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
	}}
}

// Close closes the idle connections to download ports.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Event is a message of another CDN about its copy. One field is set, or none if the
// message is of an unknown kind.
type Event struct {
	// Facts is set in the first event.
	Facts *task.Facts
	// Piece is a piece that can be fetched.
	Piece *task.Piece
	// Result is set if the copy is complete.
	Result *task.Result
}

// Follow calls handle for each event of a CDN's copy: for the pieces that it has, and
// for those that it receives while Follow runs. It returns nil when the copy is
// complete. It returns an error if no further pieces will be added, or if handle
// returns one.
func (c *Client) Follow(ctx context.Context, cdn string, id task.ID, handle func(Event) error) error {
	client, err := c.client(cdn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Follow(ctx, &cdnv1.FollowRequest{TaskId: string(id)})
	if err != nil {
		return remote("following", cdn, err)
	}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return remote("following", cdn, err)
		}
		if err := handle(event(message)); err != nil {
			return err
		}
	}
}

// Copy describes the copy of a task that a CDN has. The zero Copy is none.
type Copy struct {
	// Facts are the facts of its version.
	Facts task.Facts
	// Pieces are the pieces that can be fetched.
	Pieces []task.Piece
	// Result is set if the copy is complete.
	Result *task.Result
}

// List returns the current copy of a CDN. If the CDN stops sending, List returns the
// pieces that it has received until then, if any.
func (c *Client) List(ctx context.Context, cdn string, id task.ID) (Copy, error) {
	client, err := c.client(cdn)
	if err != nil {
		return Copy{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(c.deps.AnswerTimeout, cancel)
	defer watchdog.Stop()
	stat, err := client.Stat(ctx, &cdnv1.StatRequest{TaskId: string(id)})
	if err != nil {
		return Copy{}, remote("asking", cdn, err)
	}
	if stat.GetFacts() == nil || stat.GetPieceCount() == 0 {
		return Copy{}, nil
	}
	stream, err := client.Follow(ctx, &cdnv1.FollowRequest{TaskId: string(id)})
	if err != nil {
		return Copy{}, remote("asking", cdn, err)
	}
	var found Copy
	for len(found.Pieces) < int(stat.GetPieceCount()) {
		message, err := stream.Recv()
		if err != nil && len(found.Pieces) > 0 {
			return found, nil // the pieces that were received can be used
		}
		if err != nil {
			return Copy{}, remote("asking", cdn, err)
		}
		watchdog.Reset(c.deps.AnswerTimeout)
		switch e := event(message); {
		case e.Facts != nil:
			found.Facts = *e.Facts
		case e.Piece != nil:
			found.Pieces = append(found.Pieces, *e.Piece)
		}
	}
	if r := stat.GetResult(); r != nil {
		found.Result = convertResult(r)
	}
	return found, nil
}

func convertResult(r *cdnv1.SeedResult) *task.Result {
	return &task.Result{MD5: r.GetMd5(), Length: r.GetLength(), PieceCount: r.GetPieceCount()}
}

func event(m *cdnv1.FollowResponse) Event {
	switch e := m.GetEvent().(type) {
	case *cdnv1.FollowResponse_Facts:
		return Event{Facts: &task.Facts{
			Length: e.Facts.GetLength(), PieceSize: e.Facts.GetPieceSize(),
			ETag: e.Facts.GetEtag(), LastModified: e.Facts.GetLastModified(),
		}}
	case *cdnv1.FollowResponse_Piece:
		return Event{Piece: &task.Piece{Num: e.Piece.GetNum(), MD5: e.Piece.GetMd5(), Length: e.Piece.GetLength()}}
	case *cdnv1.FollowResponse_Result:
		return Event{Result: convertResult(e.Result)}
	default:
		return Event{}
	}
}

func (c *Client) client(cdn string) (cdnv1.CdnServiceClient, error) {
	member, ok := c.deps.Member(cdn)
	if !ok {
		return nil, fmt.Errorf("cdn %s is not a member", cdn)
	}
	conn, err := c.deps.Dial(member.Endpoint)
	if err != nil {
		return nil, remote("calling", cdn, err)
	}
	return cdnv1.NewCdnServiceClient(conn), nil
}

// Piece fetches a wrapped piece from the download port of a CDN. size is the piece
// size of the task, and wrapped must be as long as the piece. The caller has to check
// the MD5 of the piece.
func (c *Client) Piece(ctx context.Context, cdn string, id task.ID, num, size int32, wrapped []byte) error {
	member, ok := c.deps.Member(cdn)
	if !ok {
		return fmt.Errorf("cdn %s is not a member", cdn)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(c.deps.Timeout, func() { cancel(errSilent) })
	defer watchdog.Stop()
	address := net.JoinHostPort(member.DownloadIP, strconv.Itoa(int(member.DownloadPort)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+address+"/download/"+string(id[:3])+"/"+string(id), nil)
	if err != nil {
		return remote("asking", cdn, err)
	}
	req.Header.Set("Range", "bytes="+piece.Range(num, size))
	res, err := c.http.RoundTrip(req)
	if err != nil {
		return errorWithCause(ctx, "fetching a piece from", cdn, err)
	}
	defer func() { _ = res.Body.Close() }() // only read from
	if res.StatusCode != http.StatusPartialContent || res.ContentLength != int64(len(wrapped)) {
		return fmt.Errorf("cdn %s answered status %d with %d bytes to the request for piece %d, which has %d bytes",
			cdn, res.StatusCode, res.ContentLength, num, len(wrapped))
	}
	for n := 0; n < len(wrapped); {
		m, err := res.Body.Read(wrapped[n:])
		if n += m; err != nil && n < len(wrapped) {
			return errorWithCause(ctx, "fetching a piece from", cdn, err)
		}
		watchdog.Reset(c.deps.Timeout)
	}
	return nil
}

// errSilent cancels a request if the download port sends nothing for Deps.Timeout.
var errSilent = errors.New("the cdn sent nothing for too long")

// errorWithCause returns the error of a request, with errSilent as its cause if that
// canceled it.
func errorWithCause(ctx context.Context, action, cdn string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return remote(action, cdn, err)
}

// remote converts an error of another CDN to text. So the error has no gRPC status.
func remote(action, cdn string, err error) error {
	return fmt.Errorf("%s cdn %s: %v", action, cdn, err) //nolint:errorlint // see above
}
