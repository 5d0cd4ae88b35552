package delivery

import "context"

// Keep has what all hubs know of a tenant known here until release is called.
func (t *Tenants) Keep(ctx context.Context, name string) (release func(), err error) {
	tenant, err := t.ensureLocked(ctx, name)
	if err != nil {
		return nil, err
	}
	tenant.readers++
	tenant.mu.Unlock()
	return func() {
		tenant.mu.Lock()
		tenant.readers--
		t.leaveLocked(tenant)
	}, nil
}
