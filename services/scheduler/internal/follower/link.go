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

// link is the copy of the task at one instance and the stream that announces its
// pieces. The taskFollower owns it. While the stream is open, the goroutine that
// reads it owns attached and reads the fields that do not change during that time.
type link struct {
	cdn     cluster.Member
	release func() // ends the health checks of the instance

	// The parameters with which the stream was opened.
	owner    bool
	epoch    int64
	expected *cdnv1.SourceFacts
	copies   []string
	// attached is set while the copy is attached to the sink.
	attached bool

	open          bool
	openedSuspect bool // the instance was suspect when the stream was opened
	opened        time.Time
	cancel        context.CancelFunc
	withdrawn     bool // the instance is suspect: the copy was withdrawn
	stillValid    bool // the stream has ended, and the copy remains attached
	excluded      bool // the copy failed for good, until the record changes
	retryAt       time.Time
	backoff       time.Duration
}

// streamEnd describes the end of a link's stream.
type streamEnd struct {
	link *link
	err  error
	// received is set if the stream sent an event, stillValid if the copy remains
	// usable without the stream.
	received, stillValid bool
	// instanceDown is set if the instance does not answer a health check.
	instanceDown bool
}

// event is implemented by the responses of both Seed and Follow.
type event interface {
	GetFacts() *cdnv1.SourceFacts
	GetPiece() *cdnv1.Piece
	GetResult() *cdnv1.SeedResult
}

// runStream reads a link's stream to its end and determines the cause. It first checks
// the health of a suspect instance.
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
		e.err = rpcerr.New(codes.Unavailable, "", "the CDN ended the stream before the copy was complete")
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

// isTransportError reports whether an error comes from the connection, not from the
// instance.
func isTransportError(err error) bool {
	known := rpcerr.From(err)
	return known.Reason == "" && !isVersionMismatch(err) && !errors.Is(err, swarm.ErrNoCopy) &&
		(known.Code == codes.Unavailable || known.Code == codes.Canceled || known.Code == codes.DeadlineExceeded ||
			known.Code == codes.Unknown || known.Code == codes.Internal)
}

// readStream delivers the events of the stream to the sink. It attaches the copy at
// the first event: an instance without events has no pieces.
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
			// The text is shown to clients: use that of the CDN, without gRPC prefixes.
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

// openStream calls Seed at an owner and Follow at a replica.
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
