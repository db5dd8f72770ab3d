package faults

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/swarm"
)

// plan is a trial: many peers download a file that nobody has, and something
// happens when the source has sent a part of it.
type plan struct {
	name string
	// at is that part, in percent. There the source stops until all is as it has
	// to be for the fault.
	at int
	// slower makes the source slower by that factor, where it is quick: there is
	// more to be done while it sends.
	slower int64
	// spare is what may be fetched twice; see inFlight.
	spare int64
	// epochs is by how much the epoch may grow; it must grow if it may.
	epochs int64
	// own tells every peer of one gateway only, so that none can migrate.
	own bool
	// failures is how many pieces may fail that are not excused; -1 is any number.
	failures int
	// before is done before anybody asks for the file, claimed when the task has
	// an owner and a replica, fault at its moment, after when all peers have
	// ended and the record has settled.
	before, claimed, fault, after func(*trial)
	// meant says what is not as the fault takes it to be, if anything: a gateway
	// on a busy machine may pass a scheduler over, and then asks another.
	meant func(*trial) error
}

// inFlight is what a lost owner takes with it at most: pieces that were being
// cut, checked and written or that the replica had not copied yet, and what the
// sockets between it and the source hold.
func inFlight() int64 {
	const sockets = 4 << 20
	return piecesInFlight*int64(piece.SizeFor(sizeOfFile)) + sockets
}

// inMemory is what an owner whose disk does not take anything takes with it at
// most: it goes on reading until all buffers are full, or the source has no more.
func inMemory() int64 {
	const pool = 10
	return min(pool*int64(piece.SizeFor(sizeOfFile)), sizeOfFile*(100-usual)/100) + inFlight()
}

// trial is a plan that is carried out.
type trial struct {
	*site
	plan
	t   *attempt
	ctx context.Context

	file    file
	rec     *registryv1.TaskRecord // just before the fault
	faulted time.Time
	outcome outcome
}

// carryOut runs plans one after the other, each as a test. Excused is one that
// came out of bounds on a machine that stood still, once, and one that was not
// as it was meant to be, twice: nothing else is.
func carryOut(t *testing.T, s *site, plans ...plan) {
	t.Helper()
	for _, p := range plans {
		attempts(t, fmt.Sprintf("%s at %d", p.name, p.at), func(t *attempt) {
			ctx, cancel := context.WithTimeout(t.Context(), trialLimit)
			defer cancel()
			tr := &trial{site: s, plan: p, t: t, ctx: ctx}
			defer func() { tr.outcome.log(t) }()
			tr.run()
		})
	}
}

func (tr *trial) run() {
	tr.comeBack(tr.t) // a trial before may have failed
	tr.putFile()
	tr.outcome = outcome{
		Fault: tr.name, At: tr.at, Peers: peersOfTrial, MB: float64(tr.file.Size) / 1e6, Bound: ratio(tr.file.Size+tr.spare, tr.file.Size),
	}
	tr.do(tr.before)
	tape := newTape(peersOfTrial)
	configs := peersAt(tr.t, peersOfTrial, tr.file.url, tr.there(cluster.Gateway), tr.own)
	for i := range configs {
		configs[i].Observe = tape.of(i)
	}
	done := begin(tr.ctx, tr.t, configs)
	tr.awaitRecord()
	tr.do(tr.claimed)
	part := tr.part()
	require.NoError(tr.t, tr.source.Await(tr.ctx, tr.file.path, func(s origin.Stats) bool { return s.BytesSent >= part }))
	tr.awaitRecord()
	if tr.spare == inFlight() {
		tr.awaitCopied(part)
	}
	var astray error
	if tr.meant != nil {
		astray = tr.meant(tr)
	}
	tr.goOn(part)
	if astray != nil {
		requireRight(tr.t, tr.file, <-done)
		tr.t.end(astray, tr.t.number <= 2)
	}
	tr.faulted = time.Now()
	tr.do(tr.fault)
	tally := <-done // they end with their context
	tr.note(tally, tape.after(tr.faulted))
	told, broken := tape.failed()
	tr.t.Logf("the fault came at %s; pieces that failed:\n%s", tr.faulted.Format("05.000"), told)
	requireRight(tr.t, tr.file, tally)
	if tr.own {
		tr.t.within(stayed(tally.Migrations))
	}
	tr.t.within(unless(tr.failures < 0 || broken <= tr.failures, fmt.Sprintf("%d pieces failed, not %d", broken, tr.failures)))
	rec := tr.settle()
	tr.outcome.Settled = seconds(time.Since(tr.faulted))
	if tr.after != nil {
		tr.after(tr)
		tr.t.within(unless(rec.GetEpoch() == tr.settle().GetEpoch(), "who comes back took something"))
	}
	tr.requireCached(tr.ctx, tr.t, tr.file)
	tr.conclude()
}

func (tr *trial) do(step func(*trial)) {
	if step != nil {
		step(tr)
	}
}

// awaitRecord waits until there is a record that names an owner and a replica.
func (tr *trial) awaitRecord() {
	tr.t.Helper()
	await(tr.t, joinLimit, "the task is to have an owner and a replica", func() error {
		rec, err := tr.Record(tr.file.id)
		if err == nil && len(rec.GetReplicas()) == 0 {
			err = errors.New("there is no replica")
		}
		tr.rec = rec
		return err
	})
}

// putFile gives the trial a file. The source stops at its part until goOn: what
// is awaited before the fault takes as long as it takes, and the rest is still
// to come.
func (tr *trial) putFile() {
	rate := int64(rateOfSource)
	if !large {
		rate /= max(tr.slower, 1)
	}
	tr.file = tr.newFile(sizeOfFile, rate)
	gated := tr.file.File
	gated.StallAfter, gated.StallRequests = tr.part(), 1
	tr.source.Change(tr.file.path, gated)
}

// part is how many bytes the source has sent at the fault.
func (tr *trial) part() int64 { return tr.file.Size * int64(tr.at) / 100 }

// goOn lets the source send the rest, and waits until it does.
func (tr *trial) goOn(part int64) {
	tr.t.Helper()
	tr.source.Release(tr.file.path)
	require.NoError(tr.t, tr.source.Await(tr.ctx, tr.file.path, func(s origin.Stats) bool { return s.BytesSent > part }))
}

// awaitCopied waits until the replica has all but one of the pieces that the
// source has sent: that it is further behind is not a lost owner's doing.
func (tr *trial) awaitCopied(part int64) {
	tr.t.Helper()
	want := part/(int64(piece.SizeFor(tr.file.Size))-piece.WrapLength) - 1
	if want <= 0 {
		return // and none has to be there
	}
	await(tr.t, joinLimit, "the replica is to keep up", func() error {
		got, err := tr.Pieces(tr.replica(), tr.file.id)
		if err == nil && got < want {
			err = fmt.Errorf("%s has %d pieces, not %d", tr.replica().Name, got, want)
		}
		return err
	})
}

// owner, replica and scheduler are as they were at the fault.
func (tr *trial) owner() *cluster.Node   { return tr.Member(cluster.CDN, tr.rec.GetOwner()) }
func (tr *trial) replica() *cluster.Node { return tr.Member(cluster.CDN, tr.rec.GetReplicas()[0]) }
func (tr *trial) scheduler() *cluster.Node {
	return tr.Member(cluster.Scheduler, tr.rec.GetScheduler())
}

// settle waits until the record is right and gives it.
func (tr *trial) settle() *registryv1.TaskRecord {
	tr.t.Helper()
	return tr.settleFile(tr.t, tr.file)
}

func (s *site) settleFile(t testing.TB, f file) *registryv1.TaskRecord {
	t.Helper()
	var rec *registryv1.TaskRecord
	await(t, trialLimit, "the record is to settle", func() error {
		var err error
		if rec, err = s.settled(f.id, f.sum); err != nil {
			err = fmt.Errorf("%w: %v", err, rec)
		}
		return err
	})
	return rec
}

// note keeps how the downloads went.
func (tr *trial) note(tally swarm.Tally, lapse stall) {
	o := &tr.outcome
	o.Right = len(tally.Outcomes) - tally.Failures
	o.First, o.Half, o.Last, o.Gap = seconds(lapse.first), seconds(lapse.half), seconds(lapse.last), seconds(lapse.gap)
	o.End = seconds(time.Since(tr.faulted))
	o.Migrations = tally.Migrations
	for _, peer := range tally.Outcomes {
		o.FailedPieces += peer.PieceFailures
	}
	o.Source = ratio(tr.sent(tr.file), tr.file.Size)
}

// conclude notes what the source had to send and how often the task changed
// hands, and what of that is out of bounds.
func (tr *trial) conclude() {
	tr.t.Helper()
	require.NoError(tr.t, tr.source.Await(tr.ctx, tr.file.path, func(s origin.Stats) bool { return s.Active == 0 }), "nobody goes on fetching")
	rec := tr.settle()
	o, stats := &tr.outcome, tr.source.Stats(tr.file.path)
	o.Source, o.Epochs, o.Copies = ratio(stats.BytesSent, tr.file.Size), rec.GetEpoch()-tr.rec.GetEpoch(), 1+len(rec.GetReplicas())
	require.GreaterOrEqual(tr.t, o.Epochs, min(tr.epochs, 1), "the task did not change hands: nothing was tested, or an epoch has shrunk")
	most := tr.file.Size + tr.spare
	tr.t.within(errors.Join(
		unless(stats.BytesSent <= most, fmt.Sprintf("the source sent more than the file and what was in flight: %d bytes, not %d", stats.BytesSent, most)),
		unless(o.Epochs <= tr.epochs, fmt.Sprintf("the task changed hands more often than it had to: %d times, not %d", o.Epochs, tr.epochs))))
}

// stayed says that peers went to another address.
func stayed(migrations int) error {
	return unless(migrations == 0, fmt.Sprintf("peers went to another address %d times", migrations))
}
