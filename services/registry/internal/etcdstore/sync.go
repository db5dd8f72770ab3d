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
	// pageSize keeps one answer of etcd below a few megabytes.
	pageSize = 4000
	// pageBound bounds the reading of one page.
	pageBound = 10 * time.Second
	// probeEvery is how often the store is asked for its revision: to know that
	// it answers, and that it is still the store that is watched.
	probeEvery = 3 * time.Second
	// shortestPause and longestPause are those between two attempts to list.
	shortestPause = 50 * time.Millisecond
	longestPause  = 2 * time.Second
)

// errReset is a store that is not the one that was read: it was emptied or
// restored, and a watch of it would wait for revisions long past.
var errReset = errors.New("the store is in another era")

// Sync keeps the copy in step until ctx ends: a complete list at revision R,
// then the watch from R+1; again from the start when the watch breaks, is
// outrun by compaction, or the store was away.
func (s *Store) Sync(ctx context.Context) {
	defer s.metrics.Up.Set(0)
	pause := shortestPause
	for ctx.Err() == nil {
		followed, err := s.follow(ctx)
		s.metrics.Up.Set(0)
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("store is not followed, its last state stays", zap.Error(err))
		if followed {
			pause = shortestPause
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

// follow lists and watches until something breaks, and says what, and whether
// it got as far as watching.
func (s *Store) follow(ctx context.Context) (followed bool, err error) {
	client, up, err := s.conn.WaitConnected(ctx)
	if err != nil {
		return false, err
	}
	select { // what called for a list is answered with this one
	case <-s.reset:
	default:
	}
	snapshot, err := s.listEra(ctx)
	if err != nil {
		return false, err
	}
	s.cache.Replace(snapshot)
	s.metrics.Up.Set(1)
	s.log.Info("store is followed", zap.Int64("revision", snapshot.Revision),
		zap.Int("members", len(snapshot.Members)), zap.Int("records", len(snapshot.Tasks)))

	watching, cancel := context.WithCancel(ctx)
	events := client.Watch(clientv3.WithRequireLeader(watching), root, clientv3.WithPrefix(), clientv3.WithRev(snapshot.Revision+1))
	// The watch ends before its client may close: nobody else waits for it.
	defer func() {
		cancel()
		for range events { //nolint:revive // emptied on purpose
		}
	}()
	return true, s.watch(watching, up, events)
}

func (s *Store) watch(ctx, up context.Context, events clientv3.WatchChan) error {
	probe := time.NewTicker(probeEvery)
	defer probe.Stop()
	for {
		select {
		case resp, ok := <-events:
			if !ok {
				return errors.New("the watch was closed")
			}
			if err := resp.Err(); err != nil {
				return fmt.Errorf("watch: %w", err)
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
		case <-up.Done():
			return context.Cause(up)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// probe asks for the store's era and revision. A store that does not answer
// is no reason to give the watch up.
func (s *Store) probe(ctx context.Context) error {
	var era string
	var revision int64
	err := s.conn.Do(ctx, "probe store", func(ctx context.Context, c *clientv3.Client) error {
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
		s.log.Debug("store does not answer", zap.Error(err))
		return nil
	}
	s.metrics.Up.Set(1)
	if known, seen := s.cache.Position(); era != known || revision < seen {
		return errReset
	}
	return nil
}

// listEra reads everything, of a store that has an era. One that has gone back
// in time without a new one gets it, because registries that have not noticed
// would take new revisions for old ones.
func (s *Store) listEra(ctx context.Context) (cache.Snapshot, error) {
	told := false
	for {
		snapshot, err := s.list(ctx)
		if err != nil {
			return cache.Snapshot{}, err
		}
		known, seen := s.cache.Position()
		another := known != "" && snapshot.Era != known
		switch {
		case snapshot.Era == "" || snapshot.Era == known && snapshot.Revision < seen:
			err = s.beginEra(ctx, snapshot.Era)
		case another && !snapshot.Young && !told:
			// Once: by the time that it is listed again it may have grown.
			told, err = true, s.makeYoung(ctx, snapshot.Era)
		default:
			return snapshot, nil
		}
		if err != nil {
			return cache.Snapshot{}, err
		}
	}
}

// list reads everything at one revision, page by page.
func (s *Store) list(ctx context.Context) (cache.Snapshot, error) {
	var snapshot cache.Snapshot
	from, end := root, clientv3.GetPrefixRangeEnd(root)
	for {
		var resp *clientv3.GetResponse
		err := s.conn.DoLong(ctx, pageBound, "list store", func(ctx context.Context, c *clientv3.Client) (err error) {
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

// changes reads events. A member that cannot be read counts as gone.
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
