package fetch

import (
	"context"
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// How a fetch that succeeded came by the content.
const (
	fromSource = "success"
	fromDisk   = "cached"
)

// Fetch makes the task whole, from what is here, from other copies and from its
// source, in this order, and tells sink. Errors are of the kinds that source
// and store give, STALE_EPOCH when another owns the task, or the cause that ctx
// ended with. In the last two cases, and when the source does not answer or is
// cut off for good, what is here stays, for whoever goes on with it; in all
// others it goes.
func (f *Fetcher) Fetch(ctx context.Context, job Job, sink Sink) error {
	log := f.log.With(zap.String("task_id", string(job.ID)), zap.String("source_host", job.Spec.Host()))
	how, err := f.fetch(ctx, log, job, sink)
	if err != nil {
		how = strings.ToLower(string(rpcerr.ReasonOf(err)))
		if how == "" {
			how = "other"
		}
	}
	f.metrics.fetches.WithLabelValues(how).Inc()
	return err
}

func (f *Fetcher) fetch(ctx context.Context, log *zap.Logger, job Job, sink Sink) (how string, err error) {
	session := f.client.Session(job.Spec)
	defer session.Close()
	if job.Held != nil {
		return fromSource, f.keepOrRemove(ctx, log, job.ID, sink, f.resumePart(ctx, log, job, session, nil, nil, sink))
	}
	saved := f.findSaved(log, job)
	if saved != nil {
		return f.fetchWithSaved(ctx, log, job, session, saved, sink)
	}
	return fromSource, f.keepOrRemove(ctx, log, job.ID, sink, f.fetchWithoutSaved(ctx, log, job, session, sink))
}

// fetchWithSaved serves the copy on disk, once its source or its version has said
// that it is right.
func (f *Fetcher) fetchWithSaved(
	ctx context.Context, log *zap.Logger, job Job, session *source.Session, saved *store.Saved, sink Sink,
) (how string, err error) {
	// Named by its content, or by what peers have: nothing to ask.
	identified := job.Expected != nil && job.Expected.Settled() && job.Expected.Named()
	if job.Spec.MD5 != "" || identified {
		f.serveSaved(log, job.ID, saved, sink)
		return fromDisk, nil
	}
	// Whatever the source will answer, the saved copy's size is right.
	provisional := task.Facts{Length: -1, PieceSize: saved.Meta.PieceSize}
	res, err := f.requestOrAnnounce(ctx, session, provisional, source.Validators{
		ETag: saved.Meta.ETag, LastModified: saved.Meta.LastModifiedHeader(),
	}, sink)
	if err != nil {
		return fromDisk, f.serveUnchecked(ctx, log, job.ID, saved, sink, err)
	}
	if res.NotModified {
		res.Close()
		f.serveSaved(log, job.ID, saved, sink)
		return fromDisk, nil
	}
	return fromSource, f.keepOrRemove(ctx, log, job.ID, sink, f.fetchFromStart(ctx, log, job, session, res, sink))
}

// keepOrRemove removes what is here after an error that is not just the end of
// the work on it, nor of the source's readiness to answer.
func (f *Fetcher) keepOrRemove(ctx context.Context, log *zap.Logger, id task.ID, sink Sink, err error) error {
	reason := rpcerr.ReasonOf(err)
	if err == nil || ctx.Err() != nil || reason == rpcerr.StaleEpoch || reason == rpcerr.SourceUnreachable || errors.Is(err, errCutOff) {
		return err
	}
	sink.Withdraw()
	if removing := f.store.Remove(id); removing != nil {
		log.Warn("removing what is left of a task", zap.Error(removing))
	}
	return err
}

// findSaved gives the whole copy on disk that may be the task's, or nil.
func (f *Fetcher) findSaved(log *zap.Logger, job Job) *store.Saved {
	saved, err := f.store.Load(job.ID)
	switch {
	case errors.Is(err, store.ErrAbsent):
		return nil
	case err != nil:
		log.Warn("ignoring the copy on disk", zap.Error(err))
		return nil
	case job.Spec.MD5 != "" && saved.Result.MD5 != job.Spec.MD5:
		log.Info("the copy on disk has another MD5 than was asked for")
		return nil
	case job.Expected != nil && !job.Expected.Same(saved.Facts()):
		log.Info("the copy on disk is of another version than peers have")
		return nil
	}
	return saved
}

// requestOrAnnounce asks the source, with provisional facts if it takes its time.
func (f *Fetcher) requestOrAnnounce(
	ctx context.Context, session *source.Session, provisional task.Facts, have source.Validators, sink Sink,
) (*source.Response, error) {
	late := time.AfterFunc(f.options.FactsTimeout, func() { sink.Provisional(provisional) })
	defer late.Stop()
	return session.Get(ctx, have)
}

// serveUnchecked serves the copy on disk if the source cannot be asked just
// now, and gives err back otherwise.
func (f *Fetcher) serveUnchecked(
	ctx context.Context, log *zap.Logger, id task.ID, saved *store.Saved, sink Sink, err error,
) error {
	if ctx.Err() != nil {
		return err
	}
	if source.Transient(err) {
		log.Warn("serving the copy on disk unchecked", zap.Error(err))
		f.serveSaved(log, id, saved, sink)
		return nil
	}
	if rpcerr.ReasonOf(err) == rpcerr.SourceNotFound {
		return f.keepOrRemove(ctx, log, id, sink, err)
	}
	return err // such as wrong credentials: no reason to lose what others may use
}

// serveSaved serves the copy on disk.
func (f *Fetcher) serveSaved(log *zap.Logger, id task.ID, saved *store.Saved, sink Sink) {
	if err := f.store.Touch(id, saved.Meta, time.Now().UnixMilli()); err != nil {
		log.Warn("noting the access", zap.Error(err))
	}
	sink.Settle(saved.Facts())
	sink.Begin(saved.Content)
	sink.Land(saved.Pieces...)
	sink.Finish(saved.Result)
	log.Info("serving the copy on disk", zap.Int64("length", saved.Result.Length))
}

// fetchFromStart turns the source's answer from the content's start into the task.
func (f *Fetcher) fetchFromStart(
	ctx context.Context, log *zap.Logger, job Job, session *source.Session, res *source.Response, sink Sink,
) error {
	defer res.Close()
	facts, err := job.factsOf(res)
	if err != nil {
		return err
	}
	facts = sink.Settle(facts)
	content, err := f.store.Create(job.ID, store.Version{
		URL: job.Spec.Address(), Facts: facts, Epoch: job.Epoch, Known: res.Received().UnixMilli(),
	})
	if err != nil {
		return err
	}
	sink.Begin(content)
	log.Info("fetching from the source", zap.Int64("length", facts.Length), zap.Int32("piece_size", facts.PieceSize))
	a := f.assemble(log, job.ID, content, facts, sink)
	return a.finish(ctx, job, func(ctx context.Context, r *reading) (int32, error) {
		return r.readFromStart(ctx, session, res)
	})
}

// factsOf returns those of the version that the source answered with. The piece
// size is the one that peers were told, else the one that the record has for
// this version, else the one that follows from the length.
func (job Job) factsOf(res *source.Response) (task.Facts, error) {
	facts := task.Facts{Length: res.Length, ETag: res.ETag, LastModified: res.LastModified}
	if job.Expected != nil {
		facts.PieceSize = job.Expected.PieceSize
		return facts, checkSourceVersion(*job.Expected, facts)
	}
	facts.PieceSize = job.Recorded.PieceSize
	if job.Recorded.Settled() && job.Recorded.Possible() && job.Recorded.Same(facts) {
		return facts, nil
	}
	facts.PieceSize = piece.SizeFor(facts.Length)
	return facts, nil
}

// finish reads what is missing, checks the whole and seals it.
func (a *assembly) finish(ctx context.Context, job Job, readMissing func(context.Context, *reading) (int32, error)) error {
	began := time.Now()
	if err := a.read(ctx, job, readMissing); err != nil {
		return err
	}
	if got := a.whole.md5(); job.Spec.MD5 != "" && job.Spec.MD5 != got {
		return source.Wrong("the source's content has the MD5 %s, not %s", got, job.Spec.MD5)
	}
	result, err := a.seal(job.Spec.Address(), job.Spec.MD5)
	if err != nil {
		return err
	}
	a.log.Info("fetched", zap.Int64("length", result.Length), zap.Duration("took", time.Since(began)))
	return nil
}

// checkSourceVersion makes sure that the source gives the version that peers have pieces of.
func checkSourceVersion(expected, got task.Facts) error {
	if piece.Count(max(got.Length, 0), expected.PieceSize) == 0 {
		return source.Wrong("the source announces %d bytes, more than can be cut into pieces", got.Length)
	}
	if !expected.Same(got) {
		return source.Wrong("the source has another version (%d bytes, %s %s) than peers (%d bytes, %s %s)",
			got.Length, got.ETag, got.LastModified, expected.Length, expected.ETag, expected.LastModified)
	}
	return nil
}
