package reconciler

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// maxBatchCopies bounds the copies in one call.
	maxBatchCopies = 500
	// maxBatchBytes bounds the encoded size of the copies in one call. URLs may be long,
	// and gRPC refuses messages above 4 MiB.
	maxBatchBytes = 1 << 20
	// batchTimeout bounds one call, in which the registry may need a transaction per copy.
	batchTimeout = 20 * time.Second
)

// announceCopies announces the copies on disk whose records do not name this instance. It
// does so with each signal of announceNow, until ctx ends.
func (r *Reconciler) announceCopies(ctx context.Context, engine Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.announceNow:
		}
		for failures := 1; ctx.Err() == nil; failures++ {
			err := r.announceAll(ctx, engine)
			if err == nil {
				break
			}
			if failures == 5 && ctx.Err() == nil { // it fails while this instance is not a member yet
				r.log.Warn("cannot announce the copies on disk; retrying", zap.Error(err))
			}
			sleep(ctx, backOff(r.options.RetryDelay, failures))
		}
	}
}

// announceAll announces all copies once. It announces none while the stream is not
// complete: the next complete stream starts another announcement.
func (r *Reconciler) announceAll(ctx context.Context, engine Engine) error {
	inventory, err := engine.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("listing the copies on disk: %w", err)
	}
	unnamed, err := r.unnamed(ctx, inventory)
	if err != nil || len(unnamed) == 0 {
		return err
	}
	r.log.Info("announcing copies on disk whose records do not name this CDN", zap.Int("copies", len(unnamed)))
	for len(unnamed) > 0 {
		n := batchSize(unnamed)
		if err := r.announceBatch(ctx, engine, unnamed[:n]); err != nil {
			return err
		}
		unnamed = unnamed[n:]
	}
	return nil
}

// batchSize returns how many of the first copies one call may announce. It is at least 1.
func batchSize(copies []task.Inventory) int {
	bytes := 0
	for n, c := range copies {
		if bytes += proto.Size(protoCopy(c)); n == maxBatchCopies || n > 0 && bytes > maxBatchBytes {
			return n
		}
	}
	return len(copies)
}

// unnamed returns the copies whose records do not name this instance. It returns none
// while the stream is not complete.
func (r *Reconciler) unnamed(ctx context.Context, copies []task.Inventory) ([]task.Inventory, error) {
	return query(ctx, r, func(s *state) []task.Inventory {
		var rest []task.Inventory
		for _, c := range copies {
			if s.complete && s.index.entries[c.ID] == nil {
				rest = append(rest, c)
			}
		}
		return rest
	})
}

// announceBatch announces copies with one call, applies the returned records, and removes
// the copies that the registry does not need.
func (r *Reconciler) announceBatch(ctx context.Context, engine Engine, batch []task.Inventory) error {
	stream, err := query(ctx, r, func(s *state) uint64 { return s.stream })
	if err != nil {
		return err
	}
	req := &registryv1.AnnounceCopiesRequest{CdnId: r.id}
	byID := make(map[string]task.Inventory, len(batch))
	for _, c := range batch {
		byID[string(c.ID)] = c
		req.Copies = append(req.Copies, protoCopy(c))
	}
	bounded, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	resp, err := r.registry.AnnounceCopies(bounded, req)
	r.metrics.count("announce", err)
	if err != nil {
		return fmt.Errorf("announcing copies: %w", err)
	}
	err = r.send(ctx, func(s *state) {
		for _, pb := range resp.GetRecords() {
			if rec, err := fromProto(pb); err == nil && rec.names(r.id) && stream == s.stream {
				s.applyRecord(rec, time.Now())
			}
		}
	})
	if err != nil {
		return err
	}
	var unwanted []task.Inventory
	for _, id := range resp.GetUnwanted() {
		if c, ours := byID[id]; ours {
			unwanted = append(unwanted, c)
		}
	}
	return r.discardUnwanted(ctx, engine, unwanted)
}

func protoCopy(c task.Inventory) *registryv1.Copy {
	return &registryv1.Copy{
		TaskId: string(c.ID), Url: c.URL, PieceSize: c.Facts.PieceSize, Epoch: c.Epoch, Pieces: int32(c.Pieces), Whole: c.Whole,
		Source: &registryv1.SourceIdentity{Length: c.Facts.Length, Etag: c.Facts.ETag, LastModified: c.Facts.LastModified},
	}
}

// discardUnwanted removes copies that the registry does not need. It keeps a copy if a
// record names this instance for it meanwhile. It keeps a whole copy also unless the
// record is definitely of another version, because the copy may be the last one.
func (r *Reconciler) discardUnwanted(ctx context.Context, engine Engine, copies []task.Inventory) error {
	copies, err := r.unnamed(ctx, copies)
	if err != nil {
		return err
	}
	for _, c := range copies {
		log := r.log.With(zap.String("task_id", string(c.ID)))
		if c.Whole {
			outdated, err := r.isOutdated(ctx, c)
			if err != nil {
				log.Warn("cannot read the record of an unneeded copy; keeping the copy", zap.Error(err))
				continue
			}
			if !outdated {
				continue
			}
		}
		if err := engine.Discard(ctx, c.ID); err != nil {
			if rpcerr.ReasonOf(err) != rpcerr.StaleEpoch { // with STALE_EPOCH it is needed now
				log.Warn("cannot remove an unneeded copy", zap.Error(err))
			}
			continue
		}
		log.Info("removed an unneeded copy", zap.Bool("whole", c.Whole))
	}
	return nil
}

// isOutdated reports whether the record of a task is definitely of another version than
// the copy.
func (r *Reconciler) isOutdated(ctx context.Context, c task.Inventory) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: string(c.ID), Fresh: true})
	if err != nil {
		if rpcerr.From(err).Code == codes.NotFound {
			return false, nil
		}
		return false, wrap(err, "reading the record of a task")
	}
	rec, err := fromProto(resp.GetRecord())
	if err != nil {
		return false, err
	}
	return differ(rec.facts, c.Facts), nil
}

// differ reports whether two facts are definitely of different versions. A value that one
// of them does not have is not compared.
func differ(a, b task.Facts) bool {
	if a.PieceSize == 0 || b.PieceSize == 0 {
		return false
	}
	return a.PieceSize != b.PieceSize || a.Length != b.Length && a.Length >= 0 && b.Length >= 0 ||
		a.ETag != b.ETag && a.ETag != "" && b.ETag != "" ||
		a.LastModified != b.LastModified && a.LastModified != "" && b.LastModified != ""
}
