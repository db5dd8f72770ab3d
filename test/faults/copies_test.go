package faults

import (
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
)

// copyOf reads a CDN's copy of a task and gives the MD5 of what is in its
// pieces. The directory is Dragonfly v1's; a copy is whole when .meta is there.
func copyOf(cdn *cluster.Node, id string, pieceSize int32) (string, error) {
	path := filepath.Join(cdn.Files, "repo", "download", id[:3], id)
	if _, err := os.Stat(path + ".meta"); err != nil {
		return "", fmt.Errorf("the copy is not whole: %w", err)
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close() //nolint:errcheck // only read
	sum, wrapped := md5.New(), make([]byte, pieceSize)
	for {
		n, err := io.ReadFull(file, wrapped)
		if errors.Is(err, io.EOF) {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return "", err
		}
		content, err := piece.Unwrap(wrapped[:n], pieceSize)
		if err != nil {
			return "", err
		}
		sum.Write(content)
	}
}

// settled gives the record of a task when it is as it should be: fetched,
// owned by a member, with as many copies as there are members to keep them, at
// most two wanted, and every one of them whole and right.
func (s *site) settled(id, sum string) (*registryv1.TaskRecord, error) {
	rec, err := s.Record(id)
	if err != nil {
		return nil, err
	}
	if rec.GetStatus() != registryv1.TaskStatus_TASK_STATUS_SUCCESS {
		return rec, fmt.Errorf("the record says %s", rec.GetStatus())
	}
	states, err := s.states(s.there(cluster.Registry)[0], registryv1.Role_ROLE_CDN)
	if err != nil {
		return rec, err
	}
	ready := 0
	for _, state := range states {
		if state == registryv1.MemberState_MEMBER_STATE_READY {
			ready++
		}
	}
	if _, member := states[rec.GetOwner()]; !member {
		return rec, fmt.Errorf("the owner %s is no member of %v", rec.GetOwner(), states)
	}
	copies := append([]string{rec.GetOwner()}, rec.GetReplicas()...)
	if slices.Sort(copies); len(slices.Compact(slices.Clone(copies))) != len(copies) {
		return rec, fmt.Errorf("somebody is named twice: %v", copies)
	}
	if len(copies) < min(2, ready) {
		return rec, fmt.Errorf("there is one copy and %d CDNs are ready", ready)
	}
	for _, cdn := range copies {
		if _, member := states[cdn]; !member {
			return rec, fmt.Errorf("the replica %s is no member", cdn)
		}
		got, err := copyOf(s.Member(cluster.CDN, cdn), id, rec.GetPieceSize())
		if err != nil {
			return rec, fmt.Errorf("at %s: %w", cdn, err)
		}
		if got != sum {
			return rec, fmt.Errorf("the copy at %s has MD5 %s instead of %s", cdn, got, sum)
		}
	}
	return rec, nil
}
