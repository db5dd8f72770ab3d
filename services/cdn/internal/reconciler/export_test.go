package reconciler

import (
	"context"
	"maps"
	"slices"
)

// MemberIDs is who the reconciler believes to be there.
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
