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
	// maxBatchCopies is how many copies a call tells of.
	maxBatchCopies = 500
	// maxBatchBytes bounds it too: addresses may be long, and a message of gRPC not.
	maxBatchBytes = 1 << 20
	// batchTimeout bounds it: each may be a transaction of the registry.
	batchTimeout = 20 * time.Second
)

// announceCopies tells the registry what is on disk and no record names this
// instance for, whenever it is woken, until ctx ends.
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
			if failures == 5 && ctx.Err() == nil { // it may not be a member yet
				r.log.Warn("the registry is not told what is on disk; trying on", zap.Error(err))
			}
			sleep(ctx, backOff(r.options.RetryDelay, failures))
		}
	}
}

// announceAll is one round. A stream that ends makes it end, too: the next one
// begins another.
func (r *Reconciler) announceAll(ctx context.Context, engine Engine) error {
	inventory, err := engine.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("listing what is on disk: %w", err)
	}
	unnamed, err := r.unnamed(ctx, inventory)
	if err != nil || len(unnamed) == 0 {
		return err
	}
	r.log.Info("announcing copies that no record names this instance for", zap.Int("copies", len(unnamed)))
	for len(unnamed) > 0 {
		n := batchSize(unnamed)
		if err := r.announceBatch(ctx, engine, unnamed[:n]); err != nil {
			return err
		}
		unnamed = unnamed[n:]
	}
	return nil
}

// batchSize is how many of the copies one call may tell of, at least one.
func batchSize(copies []task.Inventory) int {
	bytes := 0
	for n, c := range copies {
		if bytes += proto.Size(protoCopy(c)); n == maxBatchCopies || n > 0 && bytes > maxBatchBytes {
			return n
		}
	}
	return len(copies)
}

// unnamed are those that no record names this instance for, none while not
// all records are known.
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

// discardUnwanted removes copies that the registry does not want. What may have become
// wanted meanwhile stays, and so does a whole copy unless its record is of
// another version for certain: it may be the last.
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
				log.Warn("keeping a copy, since its record is not to be had", zap.Error(err))
				continue
			}
			if !outdated {
				continue
			}
		}
		if err := engine.Discard(ctx, c.ID); err != nil {
			if rpcerr.ReasonOf(err) != rpcerr.StaleEpoch { // it is being fetched
				log.Warn("removing a copy that nobody needs", zap.Error(err))
			}
			continue
		}
		log.Info("removed a copy that nobody needs", zap.Bool("whole", c.Whole))
	}
	return nil
}

// isOutdated says that the record of a task is of another version than the copy.
func (r *Reconciler) isOutdated(ctx context.Context, c task.Inventory) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: string(c.ID), Fresh: true})
	if err != nil {
		if rpcerr.From(err).Code == codes.NotFound {
			return false, nil
		}
		return false, wrap(err, "asking for the record of a task")
	}
	rec, err := fromProto(resp.GetRecord())
	if err != nil {
		return false, err
	}
	return differ(rec.facts, c.Facts), nil
}

// differ says that two facts are of two versions for certain. What one of them
// does not tell proves nothing.
func differ(a, b task.Facts) bool {
	if a.PieceSize == 0 || b.PieceSize == 0 {
		return false
	}
	return a.PieceSize != b.PieceSize || a.Length != b.Length && a.Length >= 0 && b.Length >= 0 ||
		a.ETag != b.ETag && a.ETag != "" && b.ETag != "" ||
		a.LastModified != b.LastModified && a.LastModified != "" && b.LastModified != ""
}
