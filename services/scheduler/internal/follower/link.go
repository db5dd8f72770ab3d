package follower

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// link is a copy of the task at one instance, and the stream that tells of it.
// It belongs to the following; only while the stream is open the goroutine
// that reads it uses what does not change then, and attached.
type link struct {
	cdn     cluster.Member
	release func() // of the instance's watch

	// What the stream was opened for.
	owner    bool
	epoch    int64
	expected *cdnv1.SourceFacts
	copies   []string
	// attached says that the sink has the copy.
	attached bool

	open          bool
	openedSuspect bool // the instance did not answer when the stream was opened
	opened        time.Time
	cancel        context.CancelFunc
	withdrawn     bool // the instance is suspect: nothing that it told counts
	stillValid    bool // the stream has ended, and what it told still holds
	excluded      bool // it cannot have the task, or has another version of it
	retryAt       time.Time
	backoff       time.Duration
}

// streamEnd is how a link's stream ended.
type streamEnd struct {
	link *link
	err  error
	// received says that anything was, kept that it still holds.
	received, stillValid bool
	// instanceDown says that the instance does not answer either.
	instanceDown bool
}

// event is what both kinds of streams tell.
type event interface {
	GetFacts() *cdnv1.SourceFacts
	GetPiece() *cdnv1.Piece
	GetResult() *cdnv1.SeedResult
}

// runStream reads a link's stream to its end and finds out what that means.
// A doubtful instance is asked first whether it is there.
func (w *taskFollower) runStream(ctx context.Context, l *link, suspect bool) streamEnd {
	e := streamEnd{link: l}
	if suspect {
		if e.err = w.Health.Check(ctx, l.cdn.ID, l.cdn.Endpoint); e.err != nil {
			e.instanceDown = true
			return e
		}
	}
	var whole bool
	e.received, whole, e.err = w.readStream(ctx, l)
	if errors.Is(e.err, io.EOF) {
		e.err = rpcerr.New(codes.Unavailable, "", "the CDN ended before it had told everything")
		e.stillValid = whole
	}
	if rpcerr.ReasonOf(e.err) == rpcerr.CopyPartial {
		e.stillValid = e.received
	}
	if e.stillValid || ctx.Err() != nil {
		return e
	}
	if l.attached {
		l.attached = w.sink.Detach(ctx, l.cdn.ID) != nil
	}
	if isTransportError(e.err) {
		e.instanceDown = w.Health.Check(ctx, l.cdn.ID, l.cdn.Endpoint) != nil
	}
	return e
}

// isTransportError tells the errors of a connection from those that an instance gives.
func isTransportError(err error) bool {
	known := rpcerr.From(err)
	return known.Reason == "" && !isVersionMismatch(err) && !errors.Is(err, swarm.ErrNoCopy) &&
		(known.Code == codes.Unavailable || known.Code == codes.Canceled || known.Code == codes.DeadlineExceeded ||
			known.Code == codes.Unknown || known.Code == codes.Internal)
}

// readStream delivers what the stream tells. It is attached with the first word of
// it: an instance that says nothing has nothing.
func (w *taskFollower) readStream(ctx context.Context, l *link) (received, whole bool, err error) {
	recv, err := w.openStream(ctx, l)
	if err != nil {
		return false, false, rpcerr.From(err)
	}
	for {
		ev, err := recv()
		if errors.Is(err, io.EOF) {
			return received, whole, io.EOF
		}
		if err != nil {
			// Clients are shown this text: what the CDN said, not how it came.
			return received, whole, rpcerr.From(err)
		}
		if !received {
			received, l.attached = true, true
			if err := w.sink.Attach(ctx, w.copyAt(l)); err != nil {
				return received, whole, err
			}
		}
		if err := w.deliver(ctx, l.cdn.ID, ev); err != nil {
			return received, whole, err
		}
		whole = whole || ev.GetResult() != nil
	}
}

func (w *taskFollower) copyAt(l *link) swarm.Copy {
	return swarm.Copy{
		Instance: l.cdn.ID, ID: "cdnnode:" + l.cdn.DownloadIP + "~" + w.id, Owner: l.owner,
		IP: l.cdn.DownloadIP, Port: l.cdn.DownloadPort, Path: "/download/" + w.id[:3] + "/" + w.id,
	}
}

// openStream opens Seed at an owner and Follow at a replica.
func (w *taskFollower) openStream(ctx context.Context, l *link) (func() (event, error), error) {
	conn, err := w.Dial(l.cdn.Endpoint)
	if err != nil {
		return nil, err
	}
	client := cdnv1.NewCdnServiceClient(conn)
	if !l.owner {
		s, err := client.Follow(ctx, &cdnv1.FollowRequest{TaskId: w.id, Stay: true})
		if err != nil {
			return nil, err
		}
		return func() (event, error) { return s.Recv() }, nil
	}
	s, err := client.Seed(ctx, &cdnv1.SeedRequest{
		TaskId: w.id, Epoch: l.epoch, Expected: l.expected, Copies: l.copies, Stay: true,
		Source: w.source.Proto(),
	})
	if err != nil {
		return nil, err
	}
	return func() (event, error) { return s.Recv() }, nil
}

func (w *taskFollower) deliver(ctx context.Context, instance string, ev event) error {
	if f := ev.GetFacts(); f != nil {
		return w.sink.Facts(ctx, instance, swarm.Facts{
			Length: f.GetLength(), PieceSize: f.GetPieceSize(), ETag: f.GetEtag(), LastModified: f.GetLastModified(),
		})
	}
	if p := ev.GetPiece(); p != nil {
		return w.sink.Landed(ctx, instance, p.GetNum(), p.GetMd5(), p.GetLength())
	}
	if r := ev.GetResult(); r != nil {
		return w.sink.Whole(ctx, instance, swarm.Result{MD5: r.GetMd5(), Length: r.GetLength(), PieceCount: r.GetPieceCount()})
	}
	return nil
}
