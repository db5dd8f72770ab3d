package keeper

import (
	"context"
	"maps"
	"slices"
)

// Crowd is who the keeper believes to be there.
func (k *Keeper) Crowd(ctx context.Context) ([]string, error) {
	return ask(ctx, k, func(d *desk) []string {
		var ids []string
		for _, id := range slices.Sorted(maps.Keys(d.crowd.members)) {
			if d.crowd.members[id].Draining {
				id = "-" + id
			}
			ids = append(ids, id)
		}
		return ids
	})
}
