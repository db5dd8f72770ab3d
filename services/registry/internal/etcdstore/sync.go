package etcdstore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
)

const (
	// pageSize is the number of keys in one response of etcd, which then has at most a few
	// megabytes.
	pageSize = 4000
	// pageTimeout bounds the reading of one page.
	pageTimeout = 10 * time.Second
	// probeInterval is the time between two probes, which check that the store answers, and
	// that it is still the one that is watched.
	probeInterval = 3 * time.Second
	// minPause and maxPause bound the pause between two attempts to list.
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
)

// errReset is returned if the store is not the one that was listed. A watch that
// continues would wait for revisions that the store reaches much later, or never.
var errReset = errors.New("the store was emptied or restored")

// Sync keeps the cache up to date until ctx ends. It lists everything at a revision R
// and watches from R+1. It starts again if the watch fails, needs a revision that is
// compacted, or if the connection to the store was lost.
func (s *Store) Sync(ctx context.Context) {
	defer s.metrics.Up.Set(0)
	pause := minPause
	for ctx.Err() == nil {
		watched, err := s.listAndWatch(ctx)
		s.metrics.Up.Set(0)
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("the watch of the store ended; reads use the last state until it is restored", zap.Error(err))
		if watched {
			pause = minPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, maxPause)
	}
}

// listAndWatch lists everything and watches until an error occurs, which it returns.
// watched is set if the watch was started.
func (s *Store) listAndWatch(ctx context.Context) (watched bool, err error) {
	client, connected, err := s.conn.WaitConnected(ctx)
	if err != nil {
		return false, err
	}
	select { // this list answers earlier requests for one
	case <-s.reset:
	default:
	}
	snapshot, err := s.listWithEra(ctx)
	if err != nil {
		return false, err
	}
	s.cache.Replace(snapshot)
	s.metrics.Up.Set(1)
	s.log.Info("watching the store", zap.Int64("revision", snapshot.Revision),
		zap.Int("members", len(snapshot.Members)), zap.Int("records", len(snapshot.Tasks)))

	watching, cancel := context.WithCancel(ctx)
	events := client.Watch(clientv3.WithRequireLeader(watching), root, clientv3.WithPrefix(), clientv3.WithRev(snapshot.Revision+1))
	// The watch must end before its client is closed, and only this function waits for it.
	defer func() {
		cancel()
		for range events { //nolint:revive // the channel is drained
		}
	}()
	return true, s.watch(watching, connected, events)
}

// watch applies the events of a watch to the cache until an error occurs.
func (s *Store) watch(ctx, connected context.Context, events clientv3.WatchChan) error {
	probe := time.NewTicker(probeInterval)
	defer probe.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errors.New("etcd closed the watch")
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("watching the store: %w", err)
			}
			if slices.ContainsFunc(resp.Events, func(e *clientv3.Event) bool { return string(e.Kv.Key) == eraKey }) {
				return errReset
			}
			s.cache.Apply(s.changes(resp.Events))
		case <-s.reset:
			return errReset
		case <-probe.C:
			if err := s.probe(ctx); err != nil {
				return err
			}
		case <-connected.Done():
			return context.Cause(connected)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe checks the era and the revision of the store. If the store does not answer,
// the watch goes on.
func (s *Store) probe(ctx context.Context) error {
	var era string
	var revision int64
	err := s.conn.Do(ctx, "probing the store", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, eraKey)
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			era = string(kv.Value)
		}
		revision = resp.Header.Revision
		return nil
	})
	if err != nil {
		s.metrics.Up.Set(0)
		s.log.Debug("the store does not answer a probe", zap.Error(err))
		return nil
	}
	s.metrics.Up.Set(1)
	if known, reached := s.cache.Position(); era != known || revision < reached {
		return errReset
	}
	return nil
}

// listWithEra lists everything. It first gives the store an era if it has none, or a
// new one if its revision has gone back: registries that have not noticed this would
// take new revisions for old ones. A store that has replaced the one in the cache is
// marked as young.
func (s *Store) listWithEra(ctx context.Context) (cache.Snapshot, error) {
	marked := false
	for {
		snapshot, err := s.list(ctx)
		if err != nil {
			return cache.Snapshot{}, err
		}
		known, reached := s.cache.Position()
		replaced := known != "" && snapshot.Era != known
		switch {
		case snapshot.Era == "" || snapshot.Era == known && snapshot.Revision < reached:
			err = s.beginEra(ctx, snapshot.Era)
		case replaced && !snapshot.Young && !marked:
			// At most once: the store may not be young any more when it is listed again.
			marked, err = true, s.markYoung(ctx, snapshot.Era)
		default:
			return snapshot, nil
		}
		if err != nil {
			return cache.Snapshot{}, err
		}
	}
}

// list lists everything at one revision, page by page.
func (s *Store) list(ctx context.Context) (cache.Snapshot, error) {
	var snapshot cache.Snapshot
	from, end := root, clientv3.GetPrefixRangeEnd(root)
	for {
		var resp *clientv3.GetResponse
		err := s.conn.DoLong(ctx, pageTimeout, "listing the store", func(ctx context.Context, c *clientv3.Client) (err error) {
			resp, err = c.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(pageSize), clientv3.WithRev(snapshot.Revision))
			return err
		})
		if err != nil {
			return cache.Snapshot{}, err
		}
		if snapshot.Revision == 0 {
			snapshot.Revision = resp.Header.Revision
		}
		for _, kv := range resp.Kvs {
			s.add(&snapshot, kv)
		}
		if !resp.More || len(resp.Kvs) == 0 {
			return snapshot, nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}

// add adds a key to the snapshot.
func (s *Store) add(snapshot *cache.Snapshot, kv *mvccpb.KeyValue) {
	if string(kv.Key) == eraKey {
		snapshot.Era = string(kv.Value)
		return
	}
	if string(kv.Key) == youngKey {
		snapshot.Young = true
		return
	}
	if key, ok := parseDrain(string(kv.Key)); ok {
		snapshot.DrainMarks = append(snapshot.DrainMarks, cache.DrainMark{Key: key, Revision: kv.ModRevision})
		return
	}
	if id, ok := parseTask(string(kv.Key)); ok {
		snapshot.Tasks = append(snapshot.Tasks, s.loadTask(id, kv))
		return
	}
	if _, ok := parseMember(string(kv.Key)); ok {
		if lease, ok := s.loadMember(kv); ok {
			snapshot.Members = append(snapshot.Members, lease)
		}
	}
}

// changes converts events. A member that cannot be decoded counts as gone.
func (s *Store) changes(events []*clientv3.Event) []cache.Change {
	changes := make([]cache.Change, 0, len(events))
	for _, e := range events {
		change := cache.Change{Revision: e.Kv.ModRevision}
		gone := e.Type == clientv3.EventTypeDelete
		if id, ok := parseTask(string(e.Kv.Key)); ok {
			if gone {
				change.TaskGone = &id
			} else {
				task := s.loadTask(id, e.Kv)
				change.Task = &task
			}
		} else if string(e.Kv.Key) == youngKey {
			change.YoungEnded = gone
		} else if key, ok := parseDrain(string(e.Kv.Key)); ok {
			if gone {
				change.DrainMarkGone = &key
			} else {
				change.DrainMark = &key
			}
		} else if key, ok := parseMember(string(e.Kv.Key)); ok {
			lease, usable := cache.Lease{}, false
			if !gone {
				lease, usable = s.loadMember(e.Kv)
			}
			if usable {
				change.Member = &lease
			} else {
				change.MemberGone = &key
			}
		}
		changes = append(changes, change)
	}
	return changes
}
