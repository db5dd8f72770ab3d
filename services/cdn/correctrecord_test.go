package cdn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// The result of a whole task is reported if the record does not have it, also if the copy
// was loaded from disk only for a Follow.
func TestCopyThatIsOnlyFollowedCorrectsItsRecord(t *testing.T) {
	content := randomContent(1000)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("followed")
	home := homeWithCopy(t, id, o.source(), content)
	reg := newFakeRegistry(t)
	reg.write(id, o, 7, "a", "b")
	a := reg.join(t, "a", cdn.Config{HomeDir: home})
	got, err := receiveAll(a.follow(t, id, false))
	require.NoError(t, err)
	a.check(t, id, got, content)
	eventually(t, func() bool {
		updates := reg.of(id)
		return len(updates) > 0 && updates[0].GetEpoch() == 7 && updates[0].GetStatus() == registryv1.TaskStatus_TASK_STATUS_SUCCESS
	})
}
