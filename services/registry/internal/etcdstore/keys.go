// Package etcdstore stores members, drain marks and task records in etcd. It defines
// the keys, the leases of members, the compare-and-swap of records, and the era of
// the store, and it keeps the cache up to date with a watch. Package ownership
// decides what a record contains.
package etcdstore

import (
	"strings"

	"github.com/supernode-ha/supernode/pkg/taskid"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// The keys. Registries of different builds share a store, so the keys must not change.
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

// parseMember parses a key under memberRoot. It returns false for any other key.
func parseMember(key string) (record.MemberKey, bool) { return parseUnder(memberRoot, key) }

// parseDrain parses a key under drainRoot. It returns false for any other key.
func parseDrain(key string) (record.MemberKey, bool) { return parseUnder(drainRoot, key) }

func parseUnder(prefix, key string) (record.MemberKey, bool) {
	rest, found := strings.CutPrefix(key, prefix)
	role, id, ok := strings.Cut(rest, "/")
	k := record.MemberKey{Role: record.Role(role), ID: id}
	return k, found && ok && record.CheckRole(k.Role) == nil && record.CheckID(id) == nil
}

// parseTask parses a key under taskRoot. It returns false for any other key.
func parseTask(key string) (string, bool) {
	id, ok := strings.CutPrefix(key, taskRoot)
	return id, ok && taskid.Check(id) == nil
}
