package reconciler

import (
	"context"
	"maps"
	"slices"
)

// MemberIDs returns the ids of the CDN members that the reconciler has, with a minus
// sign before that of a draining one.
func (r *Reconciler) MemberIDs(ctx context.Context) ([]string, error) {
	return query(ctx, r, func(s *state) []string {
		var ids []string
		for _, id := range slices.Sorted(maps.Keys(s.members.byID)) {
			if s.members.byID[id].Draining {
				id = "-" + id
			}
			ids = append(ids, id)
		}
		return ids
	})
}
