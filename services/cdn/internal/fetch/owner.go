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

// Values of the metric label for a fetch that succeeded.
const (
	fromSource = "success"
	fromDisk   = "cached"
)

// Fetch completes a task from the local copy, from the copies of other CDNs and from the
// source, in this order, and announces its progress to sink.
//
// It returns errors of the source and of the disk, STALE_EPOCH if another CDN owns the
// task, or the cause of the end of ctx. The pieces stay on disk and can be resumed if
// ctx has ended, after STALE_EPOCH, and if the source does not answer or keeps
// interrupting the download. After any other error they are removed.
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

// fetchWithSaved serves a whole copy on disk if it is current. It is current if the
// requested MD5 or the expected version identifies it, or if the source answers that it
// has not changed. Otherwise the answer of the source is the new content.
func (f *Fetcher) fetchWithSaved(
	ctx context.Context, log *zap.Logger, job Job, session *source.Session, saved *store.Saved, sink Sink,
) (how string, err error) {
	// findSaved has compared the copy with the requested MD5 and the expected version.
	identified := job.Expected != nil && job.Expected.Settled() && job.Expected.Named()
	if job.Spec.MD5 != "" || identified {
		f.serveSaved(log, job.ID, saved, sink)
		return fromDisk, nil
	}
	// The piece size of the saved copy is used whatever the source answers.
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

// keepOrRemove removes the pieces on disk after an error, and returns the error. It keeps
// them if they can be resumed: if ctx has ended, another CDN owns the task, or the source
// does not answer or keeps interrupting the download.
func (f *Fetcher) keepOrRemove(ctx context.Context, log *zap.Logger, id task.ID, sink Sink, err error) error {
	reason := rpcerr.ReasonOf(err)
	if err == nil || ctx.Err() != nil || reason == rpcerr.StaleEpoch || reason == rpcerr.SourceUnreachable || errors.Is(err, errCutOff) {
		return err
	}
	sink.Withdraw()
	if removing := f.store.Remove(id); removing != nil {
		log.Warn("cannot remove the files of a failed fetch", zap.Error(removing))
	}
	return err
}

// findSaved returns the whole copy on disk. It returns nil if there is none, or if it
// does not have the requested MD5 or the expected version.
func (f *Fetcher) findSaved(log *zap.Logger, job Job) *store.Saved {
	saved, err := f.store.Load(job.ID)
	switch {
	case errors.Is(err, store.ErrAbsent):
		return nil
	case err != nil:
		log.Warn("ignoring the copy on disk, which cannot be read", zap.Error(err))
		return nil
	case job.Spec.MD5 != "" && saved.Result.MD5 != job.Spec.MD5:
		log.Info("ignoring the copy on disk, which has another MD5 than the requested one")
		return nil
	case job.Expected != nil && !job.Expected.Same(saved.Facts()):
		log.Info("ignoring the copy on disk, which is of another version than the pieces of peers")
		return nil
	}
	return saved
}

// requestOrAnnounce sends a request to the source. If the source does not answer within
// FactsTimeout, it announces provisional facts and continues to wait.
func (f *Fetcher) requestOrAnnounce(
	ctx context.Context, session *source.Session, provisional task.Facts, have source.Validators, sink Sink,
) (*source.Response, error) {
	late := time.AfterFunc(f.options.FactsTimeout, func() { sink.Provisional(provisional) })
	defer late.Stop()
	return session.Get(ctx, have)
}

// serveUnchecked serves the copy on disk after a failed request to the source, if the
// failure is transient. Otherwise it returns err.
func (f *Fetcher) serveUnchecked(
	ctx context.Context, log *zap.Logger, id task.ID, saved *store.Saved, sink Sink, err error,
) error {
	if ctx.Err() != nil {
		return err
	}
	if source.Transient(err) {
		log.Warn("the source is unavailable; serving the copy on disk, which may be outdated", zap.Error(err))
		f.serveSaved(log, id, saved, sink)
		return nil
	}
	if rpcerr.ReasonOf(err) == rpcerr.SourceNotFound {
		return f.keepOrRemove(ctx, log, id, sink, err)
	}
	return err // the copy stays, because with other credentials the source may accept the request
}

// serveSaved announces the whole copy on disk.
func (f *Fetcher) serveSaved(log *zap.Logger, id task.ID, saved *store.Saved, sink Sink) {
	if err := f.store.Touch(id, saved.Meta, time.Now().UnixMilli()); err != nil {
		log.Warn("cannot store the time of access", zap.Error(err))
	}
	sink.Settle(saved.Facts())
	sink.Begin(saved.Content)
	sink.Land(saved.Pieces...)
	sink.Finish(saved.Result)
	log.Info("serving the copy on disk", zap.Int64("length", saved.Result.Length))
}

// fetchFromStart fetches the whole content from an answer of the source that begins at
// its start. It replaces any copy on disk.
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

// factsOf returns the facts of an answer of the source. The piece size is that of the
// expected version, else that of the record if it is of the same version, else the
// default for the length.
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

// finish reads the missing pieces with readMissing, checks the requested MD5 and seals
// the copy.
func (a *assembly) finish(ctx context.Context, job Job, readMissing func(context.Context, *reading) (int32, error)) error {
	began := time.Now()
	if err := a.read(ctx, job, readMissing); err != nil {
		return err
	}
	if got := a.whole.md5(); job.Spec.MD5 != "" && job.Spec.MD5 != got {
		return source.Wrong("the content of the source has the MD5 %s, not the requested %s", got, job.Spec.MD5)
	}
	result, err := a.seal(job.Spec.Address(), job.Spec.MD5)
	if err != nil {
		return err
	}
	a.log.Info("fetched the task from the source", zap.Int64("length", result.Length), zap.Duration("took", time.Since(began)))
	return nil
}

// checkSourceVersion returns an error if the source has another version than the
// expected one.
func checkSourceVersion(expected, got task.Facts) error {
	if piece.Count(max(got.Length, 0), expected.PieceSize) == 0 {
		return source.Wrong("the source announces %d bytes, more than can be cut into pieces", got.Length)
	}
	if !expected.Same(got) {
		return source.Wrong("the source has another version (%d bytes, %s %s) than the existing pieces (%d bytes, %s %s)",
			got.Length, got.ETag, got.LastModified, expected.Length, expected.ETag, expected.LastModified)
	}
	return nil
}
