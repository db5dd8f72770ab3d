// Package etcdstore keeps members, operators' marks and task records in etcd:
// their keys, the leases of members, compare-and-swap of records, the era of
// the store, and the watch that keeps the copy (package cache) in step. What a
// record should say is decided in package ownership.
package etcdstore

import (
	"strings"

	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// The keys. They are the contract between registries of different builds.
const (
	root       = "/supernode/v1/"
	memberRoot = root + "members/"
	drainRoot  = root + "drains/"
	eraKey     = root + "era"
	youngKey   = root + "young"
	taskRoot   = root + "tasks/"
)

func drainKey(k record.MemberKey) string { return drainRoot + string(k.Role) + "/" + k.ID }

func memberKey(k record.MemberKey) string { return memberRoot + string(k.Role) + "/" + k.ID }

func roleRoot(r record.Role) string { return memberRoot + string(r) + "/" }

func taskKey(id string) string { return taskRoot + id }

// parseMember reads a key of memberRoot; false for one that is none of ours.
func parseMember(key string) (record.MemberKey, bool) { return parseUnder(memberRoot, key) }

// parseDrain reads a key of drainRoot; false for one that is none of ours.
func parseDrain(key string) (record.MemberKey, bool) { return parseUnder(drainRoot, key) }

func parseUnder(prefix, key string) (record.MemberKey, bool) {
	rest, ours := strings.CutPrefix(key, prefix)
	role, id, ok := strings.Cut(rest, "/")
	k := record.MemberKey{Role: record.Role(role), ID: id}
	return k, ours && ok && record.CheckRole(k.Role) == nil && record.CheckID(id) == nil
}

// parseTask reads a key of taskRoot; false for one that is none of ours.
func parseTask(key string) (string, bool) {
	id, ok := strings.CutPrefix(key, taskRoot)
	return id, ok && taskid.Check(id) == nil
}
