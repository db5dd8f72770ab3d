package keeper

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
	// mostCopies is how many copies a call tells of.
	mostCopies = 500
	// mostBytes bounds it too: addresses may be long, and a message of gRPC not.
	mostBytes = 1 << 20
	// batchTimeout bounds it: each may be a transaction of the registry.
	batchTimeout = 20 * time.Second
)

// announceCopies tells the registry what is on disk and no record names this
// instance for, whenever it is woken, until ctx ends.
func (k *Keeper) announceCopies(ctx context.Context, engine Engine) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.announce:
		}
		for failures := 1; ctx.Err() == nil; failures++ {
			err := k.announceAll(ctx, engine)
			if err == nil {
				break
			}
			if failures == 5 && ctx.Err() == nil { // it may not be a member yet
				k.log.Warn("the registry is not told what is on disk; trying on", zap.Error(err))
			}
			pause(ctx, backOff(k.options.RetryDelay, failures))
		}
	}
}

// announceAll is one round. A stream that ends makes it end, too: the next one
// begins another.
func (k *Keeper) announceAll(ctx context.Context, engine Engine) error {
	inventory, err := engine.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("listing what is on disk: %w", err)
	}
	unnamed, err := k.unnamed(ctx, inventory)
	if err != nil || len(unnamed) == 0 {
		return err
	}
	k.log.Info("announcing copies that no record names this instance for", zap.Int("copies", len(unnamed)))
	for len(unnamed) > 0 {
		n := batchOf(unnamed)
		if err := k.announceBatch(ctx, engine, unnamed[:n]); err != nil {
			return err
		}
		unnamed = unnamed[n:]
	}
	return nil
}

// batchOf is how many of the copies one call may tell of, at least one.
func batchOf(copies []task.Inventory) int {
	bytes := 0
	for n, c := range copies {
		if bytes += proto.Size(protoCopy(c)); n == mostCopies || n > 0 && bytes > mostBytes {
			return n
		}
	}
	return len(copies)
}

// unnamed are those that no record names this instance for, none while not
// all records are known.
func (k *Keeper) unnamed(ctx context.Context, copies []task.Inventory) ([]task.Inventory, error) {
	return ask(ctx, k, func(d *desk) []task.Inventory {
		var rest []task.Inventory
		for _, c := range copies {
			if d.complete && d.book.entries[c.ID] == nil {
				rest = append(rest, c)
			}
		}
		return rest
	})
}

func (k *Keeper) announceBatch(ctx context.Context, engine Engine, batch []task.Inventory) error {
	stream, err := ask(ctx, k, func(d *desk) uint64 { return d.stream })
	if err != nil {
		return err
	}
	req := &registryv1.AnnounceCopiesRequest{CdnId: k.id}
	byID := make(map[string]task.Inventory, len(batch))
	for _, c := range batch {
		byID[string(c.ID)] = c
		req.Copies = append(req.Copies, protoCopy(c))
	}
	bounded, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	resp, err := k.registry.AnnounceCopies(bounded, req)
	k.metrics.count("announce", err)
	if err != nil {
		return fmt.Errorf("announcing copies: %w", err)
	}
	err = k.send(ctx, func(d *desk) {
		for _, r := range resp.GetRecords() {
			if rec, err := fromProto(r); err == nil && rec.names(k.id) && stream == d.stream {
				d.take(rec, time.Now())
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
	return k.discard(ctx, engine, unwanted)
}

func protoCopy(c task.Inventory) *registryv1.Copy {
	return &registryv1.Copy{
		TaskId: string(c.ID), Url: c.URL, PieceSize: c.Facts.PieceSize, Epoch: c.Epoch, Pieces: int32(c.Pieces), Whole: c.Whole,
		Source: &registryv1.SourceIdentity{Length: c.Facts.Length, Etag: c.Facts.ETag, LastModified: c.Facts.LastModified},
	}
}

// discard removes copies that the registry does not want. What may have become
// wanted meanwhile stays, and so does a whole copy unless its record is of
// another version for certain: it may be the last.
func (k *Keeper) discard(ctx context.Context, engine Engine, copies []task.Inventory) error {
	copies, err := k.unnamed(ctx, copies)
	if err != nil {
		return err
	}
	for _, c := range copies {
		log := k.log.With(zap.String("task_id", string(c.ID)))
		if c.Whole {
			outdated, err := k.outdated(ctx, c)
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

// outdated says that the record of a task is of another version than the copy.
func (k *Keeper) outdated(ctx context.Context, c task.Inventory) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := k.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: string(c.ID), Fresh: true})
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
