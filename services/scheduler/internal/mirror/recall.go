package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

const (
	// recallTimeout bounds the question to a standby: a client waits for it.
	recallTimeout = 500 * time.Millisecond
	// recallPause is how long one that did not answer is not asked again: else
	// every registration of a new file would wait for it.
	recallPause = time.Second
)

// recalled is the stream that what was recalled is kept under.
const recalled = "recalled"

// recalls is what is being asked of standbys.
type recalls struct {
	asking singleflight.Group // by task

	mu     sync.Mutex           // guards silent
	silent map[string]time.Time // by endpoint, since when
}

// Recall asks the standby of a task what this scheduler had told it before it
// was restarted, and writes that into the book. All clients of a task come at
// the same time then: they share the answer.
func (s *Sender) Recall(ctx context.Context, taskID string, book *Book) error {
	to, ok := s.Standby(taskID)
	if !ok || s.recalls.isSilent(to.Endpoint, time.Now()) {
		return nil
	}
	// Others rely on the answer though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	_, err, _ := s.recalls.asking.Do(taskID, func() (any, error) {
		spoke, err := s.recall(ctx, to.Endpoint, taskID, book)
		s.recalls.heard(to.Endpoint, spoke, time.Now())
		return nil, err
	})
	return err
}

func (r *recalls) isSilent(endpoint string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	since, is := r.silent[endpoint]
	return is && now.Sub(since) < recallPause
}

// heard notes whether a standby answered.
func (r *recalls) heard(endpoint string, spoke bool, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.silent, func(e string, since time.Time) bool {
		return e == endpoint || now.Sub(since) >= recallPause // it may be no more
	})
	if !spoke {
		r.silent[endpoint] = now
	}
}

// recall asks one standby. One that spoke is there, though it may know more than
// can be told in time.
func (s *Sender) recall(ctx context.Context, endpoint, taskID string, book *Book) (spoke bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recallTimeout)
	defer cancel()
	conn, err := s.Dial(endpoint)
	if err != nil {
		return false, fmt.Errorf("reaching a standby: %w", err)
	}
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).Recall(ctx, &schedulerv1.RecallRequest{TaskId: taskID})
	if err != nil {
		return false, fmt.Errorf("asking a standby: %w", err)
	}
	all := schedulerv1.MirrorRequest{Released: []string{taskID}} // nobody tells of it on
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return spoke, fmt.Errorf("asking a standby: %w", err)
		}
		spoke = true
		if m := resp.GetMemory(); m.GetTaskId() == taskID {
			all.Tasks = append(all.Tasks, m)
		}
	}
	if err := Check(&all); err != nil {
		return true, fmt.Errorf("what a standby says: %w", err)
	}
	if !book.Knows(taskID) { // what is told meanwhile is newer
		book.Take(recalled, &all, time.Now())
	}
	return true, nil
}
