// Package copies is the CDN as a client of other CDNs: what they have of a
// task, and the pieces themselves from their download ports. What is done with
// them, and whom to ask, is decided elsewhere.
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

// connectTimeout is for a connection to a download port.
const connectTimeout = 3 * time.Second

// Deps is what a Client works with.
type Deps struct {
	// Member finds another CDN by its id.
	Member func(id string) (cluster.Member, bool)
	// Dial gives the connection to its rpc endpoint.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
	// Timeout is how long a download port may send nothing.
	Timeout time.Duration
	// AnswerTimeout is for a question that needs no work.
	AnswerTimeout time.Duration
}

// Client asks other CDNs. Its errors tell nothing of this instance: no reason
// of another's goes through it.
type Client struct {
	deps Deps
	http *http.Transport
}

// New makes a Client.
func New(deps Deps) *Client {
	return &Client{deps: deps, http: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: connectTimeout}).DialContext,
		ResponseHeaderTimeout: deps.Timeout,
		DisableCompression:    true,
		MaxIdleConnsPerHost:   4,
		IdleConnTimeout:       30 * time.Second,
	}}
}

// Close lets the idle connections go.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Event is one thing that another CDN tells of its copy: one field is set.
type Event struct {
	// Facts come first.
	Facts *task.Facts
	// Piece can be fetched.
	Piece *task.Piece
	// Result says that the copy is whole.
	Result *task.Result
}

// Follow tells what a CDN has of a task and gets, until it is whole there or
// nothing makes more of it, which is an error. An error of tell ends it, too.
func (c *Client) Follow(ctx context.Context, cdn string, id task.ID, tell func(Event) error) error {
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
		if err := tell(event(message)); err != nil {
			return err
		}
	}
}

// Copy is what a CDN has of a task.
type Copy struct {
	// Facts are those of its version.
	Facts task.Facts
	// Pieces can be fetched.
	Pieces []task.Piece
	// Result is set when it is whole.
	Result *task.Result
}

// List gives what a CDN has of a task just now.
func (c *Client) List(ctx context.Context, cdn string, id task.ID) (Copy, error) {
	client, err := c.client(cdn)
	if err != nil {
		return Copy{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(c.deps.AnswerTimeout, cancel)
	defer silent.Stop()
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
			return found, nil // what it has told is of use
		}
		if err != nil {
			return Copy{}, remote("asking", cdn, err)
		}
		silent.Reset(c.deps.AnswerTimeout)
		switch e := event(message); {
		case e.Facts != nil:
			found.Facts = *e.Facts
		case e.Piece != nil:
			found.Pieces = append(found.Pieces, *e.Piece)
		}
	}
	if r := stat.GetResult(); r != nil {
		found.Result = resultOf(r)
	}
	return found, nil
}

func resultOf(r *cdnv1.SeedResult) *task.Result {
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
		return Event{Result: resultOf(e.Result)}
	default:
		return Event{}
	}
}

func (c *Client) client(cdn string) (cdnv1.CdnServiceClient, error) {
	member, ok := c.deps.Member(cdn)
	if !ok {
		return nil, fmt.Errorf("cdn %s is no member", cdn)
	}
	conn, err := c.deps.Dial(member.Endpoint)
	if err != nil {
		return nil, remote("calling", cdn, err)
	}
	return cdnv1.NewCdnServiceClient(conn), nil
}

// Piece fetches a wrapped piece of a wrapped size from a CDN's download port
// into memory that is as long as it. What comes is not checked.
func (c *Client) Piece(ctx context.Context, cdn string, id task.ID, num, size int32, into []byte) error {
	member, ok := c.deps.Member(cdn)
	if !ok {
		return fmt.Errorf("cdn %s is no member", cdn)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(c.deps.Timeout, func() { cancel(errSilent) })
	defer silent.Stop()
	address := net.JoinHostPort(member.DownloadIP, strconv.Itoa(int(member.DownloadPort)))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+address+"/download/"+string(id[:3])+"/"+string(id), nil)
	if err != nil {
		return remote("asking", cdn, err)
	}
	req.Header.Set("Range", "bytes="+piece.Range(num, size))
	res, err := c.http.RoundTrip(req)
	if err != nil {
		return because(ctx, "fetching a piece from", cdn, err)
	}
	defer func() { _ = res.Body.Close() }() // only read from
	if res.StatusCode != http.StatusPartialContent || res.ContentLength != int64(len(into)) {
		return fmt.Errorf("cdn %s answered %d and %d bytes for piece %d of %d", cdn, res.StatusCode, res.ContentLength, num, len(into))
	}
	for n := 0; n < len(into); {
		m, err := res.Body.Read(into[n:])
		if n += m; err != nil && n < len(into) {
			return because(ctx, "fetching a piece from", cdn, err)
		}
		silent.Reset(c.deps.Timeout)
	}
	return nil
}

var errSilent = errors.New("it sent nothing for too long")

func because(ctx context.Context, doing, cdn string, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
		err = cause
	}
	return remote(doing, cdn, err)
}

// remote leaves the kind of the error behind: what is wrong there is not wrong here.
func remote(doing, cdn string, err error) error { return fmt.Errorf("%s cdn %s: %v", doing, cdn, err) } //nolint:errorlint // see above
