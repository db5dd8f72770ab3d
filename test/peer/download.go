package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

const (
	defaultTimeout = 5 * time.Minute
	metricsTries   = 2
)

// Download registers, downloads, checks and reports, as one run of dfget does.
// It can be called once. The Result is filled also when there is an error.
func (p *Peer) Download(ctx context.Context) (Result, error) {
	if !p.begin() {
		return Result{}, errors.New("a peer downloads once")
	}
	defer p.downloads.Done()
	process, exit := context.WithCancelCause(ctx)
	unlink := context.AfterFunc(p.life, func() { exit(context.Cause(p.life)) })
	defer unlink()

	d := &download{p: p, began: time.Now()}
	d.api = newAPI(process, &d.calls, p.cfg.Faults.RequestDelay)
	err := d.run(process)
	exit(errExited) // reports that are still on their way end with the process
	d.workers.Wait()
	d.calls.Wait()
	d.api.close()
	p.pieces.CloseIdleConnections()
	if d.file != nil {
		err = errors.Join(err, d.file.Close())
	}
	err = errors.Join(err, p.sum())
	p.rec.update(func(r *Result) { r.Cid = p.cid })
	return p.rec.result(), err
}

// download is one run of the process.
type download struct {
	p       *Peer
	api     *api
	began   time.Time
	calls   sync.WaitGroup // requests under way
	workers sync.WaitGroup // pieces, reports and the writer
	file    *os.File
	md5     string
}

func (d *download) run(ctx context.Context) error {
	d.md5 = d.p.cfg.MD5
	d.p.serve()
	r := &registrar{p: d.p, api: d.api, addresses: d.p.addresses}
	reg, err := r.register(ctx)
	reason := 0
	var refused *registerError
	switch {
	case err == nil:
		d.p.rec.update(func(r *Result) { r.TaskID = reg.TaskID })
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, ErrDies):
		return err
	case errors.As(err, &refused) && refused.code == codeNeedAuth:
		return fmt.Errorf("%w: %w", ErrNeedAuth, err)
	case len(d.p.addresses.list) == 0:
		reason = reasonNoNodes
	default:
		reason = reasonRegister
	}
	timeout := d.timeout(reg.FileLength)
	if err == nil {
		reason, err = d.throughCluster(ctx, r, reg, timeout)
		if errors.Is(err, ErrDies) || ctx.Err() != nil {
			return err
		}
	}
	if err != nil && !errors.Is(err, ErrWrongMD5) {
		err = d.throughSource(ctx, reason, timeout, err)
	}
	d.p.rec.update(func(r *Result) { r.Duration = time.Since(d.began) })
	if reg.node != "" {
		d.sendMetrics(ctx, reg, err)
	}
	return err
}

// throughCluster gives the reason for going to the source with any error but
// that of a wrong md5.
func (d *download) throughCluster(ctx context.Context, r *registrar, reg registration, timeout time.Duration) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	file, err := d.p.createFile()
	if err != nil {
		cancel(err)
		return 0, err
	}
	d.file = file
	timer := time.AfterFunc(timeout, func() { cancel(ErrTimeout) })
	defer timer.Stop()
	s := newSession(d.p, d.api, r, reg, &d.workers)
	d.workers.Go(func() { s.writer(ctx, file) })
	err = s.loop(ctx)
	d.p.finished(s.route())
	switch {
	case err == nil: // reports go on until the process exits
	case errors.Is(err, ErrTimeout):
		cancel(err)
		return 0, err
	case errors.Is(err, errWrite):
		cancel(err)
		return reasonWrite, err
	default:
		cancel(err)
		return reasonDownload, err
	}
	d.md5 = s.md5
	return 0, d.place()
}

// place checks the file and lets it be the result.
func (d *download) place() error {
	if d.md5 != "" {
		length, got, err := sumFile(d.p.path)
		if err != nil {
			return err
		}
		d.p.rec.update(func(r *Result) { r.Length, r.MD5 = length, got })
		if got != d.md5 {
			return fmt.Errorf("%s instead of %s: %w", got, d.md5, errors.Join(ErrWrongMD5, os.Remove(d.p.path)))
		}
	}
	d.p.rec.update(func(r *Result) { r.Path = d.p.path })
	return nil
}

func (d *download) throughSource(ctx context.Context, reason int, timeout time.Duration, cause error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrTimeout)
	defer cancel()
	if err := d.p.backToSource(ctx, reason, d.md5); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
		return fmt.Errorf("%w, after: %w", err, cause)
	}
	return nil
}

// sendMetrics reports the end to the node that the list is at, and once more
// when the answer's code is not 1. A wrong md5 of what the cluster gave counts
// as success.
func (d *download) sendMetrics(ctx context.Context, reg registration, failure error) {
	node := d.p.addresses.current()
	if node == nil || ctx.Err() != nil {
		return
	}
	state := d.p.rec.result()
	success := failure == nil || (errors.Is(failure, ErrWrongMD5) && !state.BackToSource)
	length := reg.FileLength
	if length < 0 && success {
		if info, err := os.Stat(state.Path); err == nil {
			length = info.Size()
		}
	}
	message := &metricsRequest{
		IP: d.p.ip, BacksourceReason: strconv.Itoa(state.Reason), CID: d.p.cid, CallSystem: d.p.cfg.CallSystem,
		Duration: state.Duration.Seconds(), FileLength: length, Port: d.p.port(), Success: success, TaskID: reg.TaskID,
	}
	for range metricsTries {
		body, err := d.api.post(ctx, node.String(), "/task/metrics", message)
		if err != nil {
			continue
		}
		if code, err := parseCode(body); err == nil && code == codeMetricsTaken {
			return
		}
	}
}

// timeout is how long the download may take, and then once more from the
// source.
func (d *download) timeout(length int64) time.Duration {
	switch {
	case d.p.cfg.Timeout > 0:
		return d.p.cfg.Timeout
	case length > 0:
		return time.Duration(length/minRate)*time.Second + reserve
	default:
		return defaultTimeout
	}
}

// finished tells the upload server which task is over, and where.
func (p *Peer) finished(node, taskID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finishNode, p.finishTask = node, taskID
}

// sum completes the result of a file whose md5 dfget had no cause to compute.
func (p *Peer) sum() error {
	state := p.rec.result()
	if state.Path == "" || state.MD5 != "" {
		return nil
	}
	length, got, err := sumFile(state.Path)
	p.rec.update(func(r *Result) { r.Length, r.MD5 = length, got })
	return err
}
