package main

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	autoscalingapply "k8s.io/client-go/applyconfigurations/autoscaling/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
)

// Typed clients: everything over protobuf, judged beside a client that speaks JSON.
func typed(ctx context.Context, config *rest.Config) {
	const ns = "go-typed"
	namespace(ctx, config, ns)
	plain := kubernetes.NewForConfigOrDie(config)
	config = inProtobuf(config)
	said := watchOver(config)
	client := kubernetes.NewForConfigOrDie(config)
	configMaps(ctx, client, plain, ns)
	paged(ctx, client, ns)
	deployments(ctx, client, ns)
	pods(ctx, client, plain, ns)
	reviews(ctx, client, ns)
	said.allInProtobuf()
}

func configMaps(ctx context.Context, client, plain kubernetes.Interface, ns string) {
	maps := client.CoreV1().ConfigMaps(ns)
	start := must(maps.List(ctx, metav1.ListOptions{})).ResourceVersion
	followed := must(maps.Watch(ctx, metav1.ListOptions{ResourceVersion: start, LabelSelector: "l=v", AllowWatchBookmarks: true}))
	defer followed.Stop()
	first := configMap("a", map[string]string{"k": "1", "text": "\x01ü"})
	first.BinaryData = map[string][]byte{"b": {0, 255, 10}}
	first.Annotations = map[string]string{"empty": ""}
	made := must(maps.Create(ctx, first, metav1.CreateOptions{}))
	refused[*corev1.ConfigMap](metav1.StatusReasonAlreadyExists)(maps.Create(ctx, first, metav1.CreateOptions{}))
	assert(equality.Semantic.DeepEqual(made, must(plain.CoreV1().ConfigMaps(ns).Get(ctx, "a", metav1.GetOptions{}))), "JSON and protobuf differ: %v", made)
	stale := made.DeepCopy()
	made.Data["k"] = "2"
	made = must(maps.Update(ctx, made, metav1.UpdateOptions{}))
	refused[*corev1.ConfigMap](metav1.StatusReasonConflict)(maps.Update(ctx, stale, metav1.UpdateOptions{}))
	for kind, patch := range map[types.PatchType]string{
		types.JSONPatchType:           `[{"op": "replace", "path": "/data/k", "value": "3"}]`,
		types.MergePatchType:          `{"data": {"k": "3"}}`,
		types.StrategicMergePatchType: `{"data": {"k": "3"}}`,
	} {
		patched := must(maps.Patch(ctx, "a", kind, []byte(patch), metav1.PatchOptions{}))
		assert(patched.Data["k"] == "3", "%s: %v", kind, patched.Data)
	}
	applied := coreapply.ConfigMap("a", ns).WithData(map[string]string{"k": "4"})
	status := refused[*corev1.ConfigMap](metav1.StatusReasonConflict)(maps.Apply(ctx, applied, metav1.ApplyOptions{FieldManager: "go"}))
	assert(len(status.Details.Causes) == 1 && status.Details.Causes[0].Type == metav1.CauseTypeFieldManagerConflict, "%v", status.Details)
	made = must(maps.Apply(ctx, applied, metav1.ApplyOptions{FieldManager: "go", Force: true}))
	extracted := must(coreapply.ExtractConfigMap(made, "go"))
	assert(len(extracted.Data) == 1 && extracted.Data["k"] == "4", "%v", extracted)
	check(maps.Delete(ctx, "a", metav1.DeleteOptions{Preconditions: metav1.NewRVDeletionPrecondition(made.ResourceVersion).Preconditions}))
	refused[*corev1.ConfigMap](metav1.StatusReasonNotFound)(maps.Get(ctx, "a", metav1.GetOptions{}))
	var seen []string
	for event := range followed.ResultChan() {
		if event.Type == watch.Bookmark {
			continue
		}
		seen = append(seen, fmt.Sprintf("%s %s", event.Type, event.Object.(*corev1.ConfigMap).Data["k"]))
		if event.Type == watch.Deleted {
			break
		}
	}
	wanted := []string{"ADDED 1", "MODIFIED 2", "MODIFIED 3", "MODIFIED 4", "DELETED 4"}
	assert(equality.Semantic.DeepEqual(seen, wanted), "%v", seen)
}

func paged(ctx context.Context, client kubernetes.Interface, ns string) {
	maps := client.CoreV1().ConfigMaps(ns)
	for number := range 25 {
		must(maps.Create(ctx, configMap(fmt.Sprintf("page-%02d", number), nil), metav1.CreateOptions{}))
	}
	pages := pager.New(pager.SimplePageFunc(func(options metav1.ListOptions) (runtime.Object, error) {
		return maps.List(ctx, options)
	}))
	pages.PageSize = 4
	number := 0
	check(pages.EachListItem(ctx, metav1.ListOptions{LabelSelector: "l=v"}, func(object runtime.Object) error {
		assert(object.(*corev1.ConfigMap).Name == fmt.Sprintf("page-%02d", number), "out of order: %v", object)
		number++
		return nil
	}))
	assert(number == 25, "%d came", number)
	check(maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "l=v"}))
	eventually(ctx, "nothing is left", func() bool {
		return len(must(maps.List(ctx, metav1.ListOptions{LabelSelector: "l=v"})).Items) == 0
	})
}

func deployments(ctx context.Context, client kubernetes.Interface, ns string) {
	apps := client.AppsV1().Deployments(ns)
	container := coreapply.Container().WithName("c").WithImage("trierarch.local/busybox:1")
	template := coreapply.PodTemplateSpec().WithLabels(map[string]string{"app": "d"}).WithSpec(coreapply.PodSpec().WithContainers(container))
	selector := metaapply.LabelSelector().WithMatchLabels(map[string]string{"app": "d"})
	wanted := appsapply.Deployment("d", ns).WithSpec(appsapply.DeploymentSpec().WithReplicas(2).WithSelector(selector).WithTemplate(template))
	must(apps.Apply(ctx, wanted, metav1.ApplyOptions{FieldManager: "go"}))
	ready := func(number int32) func() bool {
		return func() bool {
			found := must(apps.Get(ctx, "d", metav1.GetOptions{}))
			return found.Status.ReadyReplicas == number && found.Status.ObservedGeneration == found.Generation
		}
	}
	eventually(ctx, "two pods are ready", ready(2))
	scale := must(apps.GetScale(ctx, "d", metav1.GetOptions{}))
	scale.Spec.Replicas = 3
	must(apps.UpdateScale(ctx, "d", scale, metav1.UpdateOptions{}))
	eventually(ctx, "three pods are ready", ready(3))
	_, err := apps.ApplyScale(ctx, "d", autoscalingapply.Scale().WithName("d").WithSpec(autoscalingapply.ScaleSpec().WithReplicas(1)), metav1.ApplyOptions{FieldManager: "scaler", Force: true})
	check(err)
	eventually(ctx, "one pod is ready", ready(1))
	check(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		found := must(apps.Get(ctx, "d", metav1.GetOptions{}))
		found.Status.Conditions = append(found.Status.Conditions, appsv1.DeploymentCondition{Type: "Own", Status: corev1.ConditionTrue})
		_, err := apps.UpdateStatus(ctx, found, metav1.UpdateOptions{})
		return err
	}))
	check(apps.Delete(ctx, "d", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}))
	eventually(ctx, "the deployment is gone, and its pods before it", func() bool {
		list := must(client.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=d"}))
		return len(must(apps.List(ctx, metav1.ListOptions{})).Items) == 0 && len(list.Items) == 0
	})
}

// fullPod has something of everything that is encoded in a way of its own.
func fullPod() *corev1.Pod {
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromString("web"), HTTPHeaders: []corev1.HTTPHeader{{Name: "A", Value: "b"}}}}, PeriodSeconds: 3}
	container := corev1.Container{
		Name: "c", Image: "trierarch.local/busybox:1", Command: []string{"sleep", "1000"},
		Ports:          []corev1.ContainerPort{{Name: "web", ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
		Env:            []corev1.EnvVar{{Name: "E", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
		Resources:      corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("1m"), "memory": resource.MustParse("1Mi")}},
		ReadinessProbe: probe,
		SecurityContext: &corev1.SecurityContext{RunAsUser: ptr.To(int64(7)), AllowPrivilegeEscalation: ptr.To(false),
			Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
		VolumeMounts: []corev1.VolumeMount{{Name: "v", MountPath: "/v", ReadOnly: true}},
	}
	term := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "kubernetes.io/os", Operator: corev1.NodeSelectorOpIn, Values: []string{"linux"}}}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "full-", Labels: map[string]string{"app": "full"}, Finalizers: []string{"go.example.com/kept"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{container}, TerminationGracePeriodSeconds: ptr.To(int64(0)),
			Affinity:    &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{term}}}},
			Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(5))}},
			Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr.To(int32(0o440)), Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			}}}}},
		},
	}
}

func pods(ctx context.Context, client, plain kubernetes.Interface, ns string) {
	api := client.CoreV1().Pods(ns)
	eventually(ctx, "the account is there", func() bool {
		_, err := client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err == nil
	})
	made := must(api.Create(ctx, fullPod(), metav1.CreateOptions{}))
	name := made.Name
	var pod *corev1.Pod
	eventually(ctx, "the pod runs", func() bool {
		pod = must(api.Get(ctx, name, metav1.GetOptions{}))
		return pod.Status.Phase == corev1.PodRunning
	})
	eventually(ctx, "JSON and protobuf say the same", func() bool {
		pod = must(api.Get(ctx, name, metav1.GetOptions{}))
		other := must(plain.CoreV1().Pods(ns).Get(ctx, name, metav1.GetOptions{}))
		return pod.ResourceVersion == other.ResourceVersion && equality.Semantic.DeepEqual(pod, other)
	})
	debugged := pod.DeepCopy()
	debugged.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "trierarch.local/busybox:1"}}}
	check(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		debugged.ResourceVersion = must(api.Get(ctx, name, metav1.GetOptions{})).ResourceVersion
		_, err := api.UpdateEphemeralContainers(ctx, name, debugged, metav1.UpdateOptions{})
		return err
	}))
	labels := map[string]string{"app": "full"}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "full"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}}}
	must(client.PolicyV1().PodDisruptionBudgets(ns).Create(ctx, budget, metav1.CreateOptions{}))
	eventually(ctx, "the budget counts the pod", func() bool {
		found := must(client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "full", metav1.GetOptions{}))
		return found.Status.ObservedGeneration == found.Generation && found.Status.ExpectedPods == 1
	})
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}
	refusal(metav1.StatusReasonTooManyRequests, api.EvictV1(ctx, eviction))
	check(client.PolicyV1().PodDisruptionBudgets(ns).Delete(ctx, "full", metav1.DeleteOptions{}))
	eventually(ctx, "the eviction is granted", func() bool { return api.EvictV1(ctx, eviction) == nil })
	must(api.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{}))
	eventually(ctx, "the pod is gone", func() bool {
		return len(must(api.List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})).Items) == 0
	})
}

func reviews(ctx context.Context, client kubernetes.Interface, ns string) {
	attributes := &authorizationv1.ResourceAttributes{Verb: "get", Resource: "pods", Namespace: ns}
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{User: "nobody", ResourceAttributes: attributes}}
	answer := must(client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{}))
	assert(!answer.Status.Allowed, "%v", answer)
	self := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}
	assert(must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, self, metav1.CreateOptions{})).Status.Allowed, "not allowed")
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(600))}}
	token := must(client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", request, metav1.CreateOptions{})).Status.Token
	asked := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	known := must(client.AuthenticationV1().TokenReviews().Create(ctx, asked, metav1.CreateOptions{}))
	assert(known.Status.User.Username == "system:serviceaccount:"+ns+":default", "%v", known.Status)
}
