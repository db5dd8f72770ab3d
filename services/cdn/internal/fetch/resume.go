package fetch

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// ageOfFacts is the assumed age of facts that did not come from the source directly. A
// Last-Modified date identifies a version only if it is at least one second older than
// the time at which the source sent it, which is unknown for such facts.
const ageOfFacts = time.Minute

// fetchWithoutSaved fetches a task of which no whole copy is on disk. It resumes the
// partial copy on disk or starts from the copies of other CDNs if it can, and otherwise
// fetches the whole content from the source.
func (f *Fetcher) fetchWithoutSaved(ctx context.Context, log *zap.Logger, job Job, session *source.Session, sink Sink) error {
	part, err := f.usablePart(log, job)
	if err != nil {
		return err
	}
	versionKnown := job.Expected != nil && job.Expected.Settled()
	switch {
	case part != nil && versionKnown:
		return f.resumePart(ctx, log, job, session, part, nil, sink)
	case part != nil:
		return f.fetchWithPart(ctx, log, job, session, part, sink)
	case versionKnown && len(job.Copies) > 0:
		content, err := f.store.Create(job.ID, store.Version{
			URL: job.Spec.Address(), Facts: *job.Expected, Epoch: job.Epoch,
			Known: time.Now().Add(-ageOfFacts).UnixMilli(),
		})
		if err != nil {
			return err
		}
		return f.resumePart(ctx, log, job, session, &store.Part{Version: content.Version(), Content: content}, nil, sink)
	}
	provisional := task.Facts{Length: -1, PieceSize: piece.DefaultSize}
	if job.Expected != nil {
		provisional = *job.Expected
	}
	res, err := f.requestOrAnnounce(ctx, session, provisional, source.Validators{}, sink)
	if err != nil {
		return err
	}
	return f.fetchFromStart(ctx, log, job, session, res, sink)
}

// usablePart returns the partial copy on disk. It returns nil if there is none, if it has
// no pieces, or if it is of another version than the expected one.
func (f *Fetcher) usablePart(log *zap.Logger, job Job) (*store.Part, error) {
	part, err := f.store.OpenPart(job.ID)
	switch {
	case errors.Is(err, store.ErrAbsent):
		return nil, nil //nolint:nilnil // no part is a valid result
	case err != nil:
		return nil, err
	case job.Expected != nil && !job.Expected.Same(part.Facts):
		log.Info("ignoring the partial copy on disk, which is of another version than the pieces of peers")
	case len(part.Pieces) == 0:
	default:
		return part, nil
	}
	_ = part.Close() // its files will be removed
	return nil, nil  //nolint:nilnil // no part is a valid result
}

// fetchWithPart asks the source whether it still has the version of the partial copy
// before that copy is announced. If the source has, fetchWithPart resumes the copy. If the
// source has another version, or its version cannot be identified, the whole content is
// fetched instead.
func (f *Fetcher) fetchWithPart(
	ctx context.Context, log *zap.Logger, job Job, session *source.Session, part *store.Part, sink Sink,
) error {
	late := time.AfterFunc(f.options.FactsTimeout, func() {
		sink.Provisional(task.Facts{Length: -1, PieceSize: part.Facts.PieceSize})
	})
	defer late.Stop()
	inUse := false
	defer func() {
		if !inUse {
			_ = part.Close() // another version replaces it, or a later fetch opens it again
		}
	}()
	a := f.assemble(log, job.ID, part.Content, part.Facts, sink)
	version := knownVersion(part.Version)
	if !session.Rangeable(version) {
		res, err := session.Get(ctx, source.Validators{})
		if err != nil {
			return err
		}
		return f.fetchFromStart(ctx, log, job, session, res, sink)
	}
	if err := a.verify(ctx, part.Pieces, false); err != nil {
		return err
	}
	part.Pieces = a.held()
	res, err := a.requestFirstMissing(ctx, session, version)
	if rpcerr.ReasonOf(err) == rpcerr.SourceBroken {
		// For example, a server that ignores If-Range sends the range of another version.
		// The partial copy was not announced, so it can be replaced.
		res, err = session.Get(ctx, source.Validators{})
	}
	if err != nil {
		return err
	}
	if !res.Partial && !res.NotModified {
		log.Info("the source cannot resume the partial copy on disk; fetching from the start")
		return f.fetchFromStart(ctx, log, job, session, res, sink)
	}
	inUse = true
	return f.resumePart(ctx, log, job, session, part, res, sink)
}

// requestFirstMissing requests the first run of missing pieces. If no piece is missing, it
// makes a conditional request, which only asks whether the version is still current.
func (a *assembly) requestFirstMissing(ctx context.Context, session *source.Session, version source.Known) (*source.Response, error) {
	runs := a.missing()
	if len(runs) == 0 {
		return session.Get(ctx, version.Validators)
	}
	content := int64(a.facts.PieceSize) - piece.WrapLength
	return session.Range(ctx, version, int64(runs[0][0])*content, min(int64(runs[0][1])*content, a.facts.Length)-1)
}

// resumePart completes a partial copy whose version is known: job.Held, or else part.
// first is the answer of the source to the request for the first run of missing pieces,
// or nil if the source was not asked yet.
func (f *Fetcher) resumePart(
	ctx context.Context, log *zap.Logger, job Job, session *source.Session,
	part *store.Part, first *source.Response, sink Sink,
) error {
	var content *store.Content
	if job.Held != nil {
		content = job.Held.Content
	} else {
		content = part.Content
	}
	version := content.Version()
	if first != nil {
		defer first.Close()
	}
	a := f.assemble(log, job.ID, content, version.Facts, sink)
	switch {
	case job.Held != nil:
		if err := a.adoptHeld(ctx, job.Held); err != nil {
			return err
		}
	default:
		sink.Settle(version.Facts)
		sink.Begin(content)
		if first != nil {
			a.add(part.Pieces...)
			sink.Land(part.Pieces...)
		} else if err := a.verify(ctx, part.Pieces, true); err != nil {
			return err
		}
	}
	if first == nil {
		if err := a.fetchFromCopies(ctx, job.Copies); err != nil {
			return err
		}
	}
	log.Info("resuming a partial copy", zap.Int("pieces", len(a.held())), zap.Int32("of", a.count()), zap.Int64("length", a.facts.Length))
	return a.fetchMissing(ctx, job, session, version, first)
}

// fetchMissing fetches the missing pieces from the source, with range requests if the
// source supports them for this version. Otherwise it reads the content from the start
// and compares it with the existing pieces.
func (a *assembly) fetchMissing(
	ctx context.Context, job Job, session *source.Session, version store.Version, first *source.Response,
) error {
	if a.facts.Length >= 0 && len(a.missing()) == 0 {
		return a.finish(ctx, job, func(context.Context, *reading) (int32, error) { return a.count(), nil })
	}
	asked := knownVersion(version)
	if first == nil && session.Rangeable(asked) && len(a.held()) > 0 {
		res, err := a.requestWithRetries(ctx, func() (*source.Response, error) { return a.requestFirstMissing(ctx, session, asked) })
		if err != nil {
			return err
		}
		first = res
	}
	if first != nil && first.Partial {
		return a.finish(ctx, job, func(ctx context.Context, r *reading) (int32, error) {
			stop := context.AfterFunc(ctx, func() { first.Cancel(context.Cause(ctx)) })
			defer stop()
			return r.readRuns(ctx, session, asked, first)
		})
	}
	if first == nil {
		res, err := a.requestWithRetries(ctx, func() (*source.Response, error) { return session.Get(ctx, source.Validators{}) })
		if err != nil {
			return err
		}
		first = res
	}
	defer first.Close()
	got := task.Facts{Length: first.Length, PieceSize: a.facts.PieceSize, ETag: first.ETag, LastModified: first.LastModified}
	if err := checkSourceVersion(a.facts, got); err != nil {
		return err
	}
	a.log.Info("the source cannot resume; fetching from the start and comparing the existing pieces", zap.Int("pieces", len(a.held())))
	return a.finish(ctx, job, func(ctx context.Context, r *reading) (int32, error) {
		return r.readFromStart(ctx, session, first)
	})
}

// requestWithRetries repeats a request after transient failures, because a partial copy
// exists that is worth the delay. It makes at most maxRefusals+1 requests.
func (a *assembly) requestWithRetries(ctx context.Context, request func() (*source.Response, error)) (*source.Response, error) {
	for attempt := range maxRefusals {
		res, err := request()
		if err == nil || ctx.Err() != nil || !source.Transient(err) {
			return res, err
		}
		a.log.Warn("the source does not answer; retrying", zap.Error(err), zap.Int("attempt", attempt+1))
		delay := a.options.RetryDelay << attempt
		if err := sleep(ctx, delay/2+rand.N(delay/2+1)); err != nil {
			return nil, err
		}
	}
	return request()
}
